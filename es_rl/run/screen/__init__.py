"""What a run shows while it trains, and at its end."""

from es_rl.run.screen.console import Record as Record
from es_rl.run.screen.console import Screen as Screen
from es_rl.run.screen.goal import Goal as Goal
from es_rl.run.screen.goal import goal as goal
from es_rl.run.screen.goal import number as number
