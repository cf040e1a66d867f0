"""The search itself: the only package that imports Ray and, with reporting, Optuna.

Ray reads its switches when it is imported, and this file runs before any module beside it, so they are set here.
"""

import os
import secrets

_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A slice that ends within an epoch has no metric yet.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # A search is rebuilt from its own files, so Tune's snapshots serve nobody.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # Ctrl-C ends the search at once instead of waiting for Tune to wind up.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# Ray's servers listen on every address of the machine, so each driver has a token of its own.
HAS_OWN_TOKEN = not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
if HAS_OWN_TOKEN:
    _SWITCHES |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
for _name, _value in _SWITCHES.items():
    os.environ.setdefault(_name, _value)
