"""``fastpixcon config``: the configs that come with the package, and checks of a user's own."""

import argparse

from fastpixcon.cli.options import Verbs, add_verb

_EXAMPLES = """\
  fastpixcon config                                  the names
  fastpixcon config cityscapes_hrnet_w48             its text, to change and to train with --config
  fastpixcon config mine.toml                        checks it and prints every value"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "config",
        _run,
        "list, show and check configs",
        "Without a name list the configs that come with the package; with one print its text; with a file check it "
        "and print every value as JSON.",
        _EXAMPLES,
    )
    parser.add_argument("config", metavar="NAME|FILE", nargs="?")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a value")


def _run(options: argparse.Namespace) -> int:
    import json

    from fastpixcon.training import config as configs

    shipped = configs.shipped()
    if options.config is None:
        width = max(map(len, shipped))
        for name, text in sorted(shipped.items()):
            print(f"{name:<{width}}  {text.splitlines()[0].removeprefix('# ')}")
    elif options.config in shipped and not options.set:
        print(shipped[options.config], end="")
    else:
        print(json.dumps(configs.to_tree(configs.load(options.config, options.set)), indent=2))
    return 0
