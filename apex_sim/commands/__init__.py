"""Subcommands of the CLI, one file each: add_parser(subparsers) and run(args) -> int."""
