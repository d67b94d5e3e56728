"""Write a trained policy as one file for a program without es_rl: ONNX, torch.export, or arrays for NumPy.

`stepped.py` is the policy with its memory as inputs and outputs; `formats.py` makes files from it and runs them again;
`check.py` compares what a file does with what the policy does on the observations of `recorded.py`; `contract.py` says
what a program must know besides.
"""
