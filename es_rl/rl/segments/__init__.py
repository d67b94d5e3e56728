"""Training by judged steps: simulations go on from update to update, and a critic gives every step its advantage."""
