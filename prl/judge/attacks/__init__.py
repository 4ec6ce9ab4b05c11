"""Attacks on a judge: responses without an answer that win by how they are written."""

from prl.judge.attacks.base import AttackFamily
from prl.judge.attacks.families import FAMILIES, attacks
from prl.judge.attacks.rows import AttackRows

__all__ = ["FAMILIES", "AttackFamily", "AttackRows", "attacks"]
