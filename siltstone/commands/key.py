"""`siltstone key`: the access keys that S3 clients sign with."""

from __future__ import annotations

import argparse
import json

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.errors import InvalidArgument
from siltstone.home import Home
from siltstone.keys import limited_to
from siltstone.operations import perform


def add_parser(commands: Subparsers) -> None:
    """Add `key` and its actions."""
    parser = commands.add_parser(
        "key",
        help="add, list or remove the access keys of the S3 door",
        description="The access keys that S3 clients sign with. A change holds at once, daemon or not.",
        epilog="example:\n  siltstone key add ~/volume --owner alice",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="add|list|remove", required=True)
    add = add_command(
        actions,
        "add",
        run_add,
        summary="add an access key",
        text="Add an access key and print it. Without --access and --secret a pair is generated; the secret is shown\n"
        "only now.",
        example="siltstone key add ~/volume\n"
        "siltstone key add ~/volume --access MYKEY --secret wJalrXUtnFEMI/K7 --owner alice --display-name 'Alice A.'\n"
        "siltstone key add ~/volume --owner alice --read-only --bucket photos --prefix 2026/",
    )
    add_home(add)
    add.add_argument("--access", metavar="A", help="access id (default: a random one)")
    add.add_argument("--secret", metavar="S", help="secret (default: a random one)")
    add.add_argument("--owner", metavar="ID", help="whose buckets and objects the key makes (default: the access id)")
    add.add_argument("--display-name", metavar="NAME", help="the owner's name for people (default: the owner id)")
    add.add_argument(
        "--email", metavar="ADDRESS", default="", help="the owner's address, by which others can grant access"
    )
    add.add_argument("--read-only", action="store_true", help="the key may only read and list")
    add.add_argument(
        "--bucket", metavar="B", action="append", default=[], help="the key works in this bucket only; repeatable"
    )
    add.add_argument("--prefix", metavar="P", default="", help="with --bucket: only for keys that begin with this")
    add.add_argument("--policy", metavar="FILE", help="what the key may do, as a policy in JSON (without principals)")
    add_json(add)
    show = add_command(
        actions,
        "list",
        run_list,
        summary="list the access keys",
        text="List access ids with their owners; never secrets.",
        example="siltstone key list ~/volume",
    )
    add_home(show)
    add_json(show)
    remove = add_command(
        actions,
        "remove",
        run_remove,
        summary="remove an access key",
        text="Remove an access key; requests signed with it are refused from now on.",
        example="siltstone key remove ~/volume MYKEY",
    )
    add_home(remove)
    remove.add_argument("access_id", metavar="ACCESS", nargs="?", help="the access id")
    remove.add_argument("--access", metavar="A", help="the access id, the other way to give it")


def run_add(options: argparse.Namespace) -> int:
    """Add a key; prints it once, secret included."""
    parts = {
        "access": options.access,
        "secret": options.secret,
        "owner": options.owner,
        "display_name": options.display_name,
        "email": options.email,
        "policy": _policy_of(options),
    }
    key = perform(Home(options.home), "key_add", parts)
    if options.json:
        print(json.dumps(key))
    else:
        print(f"access key   {key['access']}\nsecret       {key['secret']}")
        print(f"owner        {key['owner']} ({key['display_name']})")
    return 0


def _policy_of(options: argparse.Namespace) -> object:
    """What the key may do, None: all that its owner may. Raises InvalidArgument."""
    if options.policy is None:
        if options.prefix and not options.bucket:
            raise InvalidArgument("--prefix says which keys of a bucket: give --bucket as well")
        return limited_to(options.bucket, options.prefix, read_only=options.read_only)
    if options.bucket or options.prefix or options.read_only:
        raise InvalidArgument("--policy says all that the key may do: leave --read-only, --bucket and --prefix away")
    try:
        with open(options.policy, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InvalidArgument(f"cannot read {options.policy}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"{options.policy} is not JSON: {error}") from error


def run_list(options: argparse.Namespace) -> int:
    """List keys, one a line: access id, owner, display name."""
    keys = perform(Home(options.home), "key_list")
    if options.json:
        print(json.dumps(keys))
    else:
        for key in keys:
            print(f"{key['access']}\t{key['owner']}\t{key['display_name']}{_limits(key)}")
    return 0


def _limits(key: dict[str, object]) -> str:
    return "" if key["policy"] is None else "\tlimited by a policy"


def run_remove(options: argparse.Namespace) -> int:
    """Remove a key."""
    access = options.access or options.access_id
    if not access:
        raise InvalidArgument("say which access key to remove, as in: siltstone key remove HOME ACCESS")
    perform(Home(options.home), "key_remove", {"access": access})
    print(f"removed access key {access}")
    return 0
