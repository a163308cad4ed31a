"""The command of the installed package: `segmentation NAME ...` is the checkout's command NAME."""

import argparse
import sys
from importlib import import_module
from pkgutil import iter_modules

import tools
from utils import PACKAGE, VERSION
from utils.errors import guard


def run() -> int:
    """Run the command that the first word names; returns the exit code."""
    modules = {name: name for name in ("train", "evaluate", "inference", "export")}
    modules |= {tool.name: f"tools.{tool.name}" for tool in iter_modules(tools.__path__)}
    parser = argparse.ArgumentParser(
        prog="segmentation",
        description="Train, evaluate and apply networks for semantic segmentation.",
        epilog=f"commands: {', '.join(modules)}; each explains itself with --help",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("command", choices=modules, metavar="COMMAND", help="what to do")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its own flags")
    options = parser.parse_args()
    sys.argv[0] = f"segmentation {options.command}"  # as which the command explains itself
    module = import_module(PACKAGE + modules[options.command])
    return guard(module.main, options.arguments)
