"""`tact policy …`: check, test, activate, history, rollback."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from api.remote import RemoteFailure, ask
from policies.cases import parse_cases
from policies.loader import load_dir
from policies.model import PolicyError, Problem

policy = typer.Typer(help="What marketers edit: check it, test it, make it active.", no_args_is_help=True)

Dir = Annotated[Path, typer.Argument(help="folder of the policy set", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Url = Annotated[str, typer.Option(help="where Tact runs")]
URL = "http://127.0.0.1:8080"


@policy.command()
def check(folder: Dir, as_json: Json = False) -> None:
    """Find every mistake at once. Exit 0 clean, 1 errors."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    version = ""
    try:
        loaded = load_dir(folder)
        warnings, version = loaded.warnings, loaded.policy.version
    except PolicyError as refused:
        problems = tuple(refused.problems)
    if as_json:
        typer.echo(json.dumps({"errors": said(problems), "warnings": said(warnings)}, indent=2))
    else:
        for problem in problems:
            show(problem, "error")
        for warning in warnings:
            show(warning, "warning")
        if not problems:
            typer.echo(f"{folder}: clean, {version}")
        else:
            typer.echo(f"{folder}: {len(problems)} mistake{'s' if len(problems) > 1 else ''}", err=True)
    sys.exit(1 if problems else 0)


@policy.command("test")
def run_tests(
    folder: Dir,
    cases: Annotated[list[Path] | None, typer.Option(help="files of cases instead of the set's own")] = None,
    as_json: Json = False,
) -> None:
    """Run the policy's own cases. Exit 1 if any fails."""
    from engine.judging.plan import compile_plan  # noqa: PLC0415  # as above
    from engine.judging.policy_cases import run_cases  # noqa: PLC0415  # the core is not needed to print a help page

    loaded = load_dir(folder)
    asked = loaded.cases
    if cases:
        asked = parse_cases({str(path): read(path) for path in cases}, loaded.policy)
    failures = run_cases(compile_plan(loaded.policy), asked)
    if as_json:
        report = {
            "cases": len(asked),
            "failed": len(failures),
            "failures": [
                {
                    "name": f.name,
                    "expected": f.expected,
                    "got": f.got,
                    "why": f.why,
                    "file": f.file,
                    "line": f.line,
                }
                for f in failures
            ],
        }
        typer.echo(json.dumps(report, indent=2, default=str))
    else:
        for failure in failures:
            typer.echo(f"FAILED {failure.name}  ({failure.file}:{failure.line})")
            typer.echo(f"  expected: {json.dumps(failure.expected, default=str)}")
            typer.echo(f"  got:      {json.dumps(failure.got, default=str)}")
            for reason in failure.why:
                typer.echo(f"  why:      {reason}")
        typer.echo(f"{len(asked)} cases, {len(failures)} failed")
    sys.exit(1 if failures else 0)


@policy.command()
def activate(folder: Dir, url: Url = URL, as_json: Json = False) -> None:
    """Make a policy set the active one, for every API process at once."""
    files = load_dir(folder).policy.files
    try:
        done = ask(url, "POST", "/v1/policies/activate", {"files": files})
    except RemoteFailure as refused:
        for error in (refused.body or {}).get("errors", []):
            typer.echo(f"{error['file']}:{error['line']}: {error['detail']} - {error['fix']}", err=True)
        raise
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        typer.echo(
            f"active: {done['policy_version']} since {done['activated_at']} (before: {done['previous']})"
        )


@policy.command()
def history(url: Url = URL, as_json: Json = False) -> None:
    """List every activation, newest first."""
    done = ask(url, "GET", "/v1/policies/versions")
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    for entry in done["versions"]:
        typer.echo(
            f"{entry['activated_at']}  {entry['policy_version']}{'  active' if entry['active'] else ''}"
        )


@policy.command()
def rollback(url: Url = URL, as_json: Json = False) -> None:
    """Go back to the policy set that was active before."""
    done = ask(url, "POST", "/v1/policies/rollback")
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        typer.echo(
            f"active again: {done['policy_version']} since {done['activated_at']} (before: {done['previous']})"
        )


def read(path: Path) -> str:
    """Return a file's text, or refuse with a clear sentence."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RemoteFailure(f"{path} cannot be read: {error}") from None


def said(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    """Return mistakes as plain values."""
    return [
        {"file": p.file, "line": p.line, "field": p.field, "detail": p.detail, "fix": p.fix} for p in problems
    ]


def show(problem: Problem, kind: str) -> None:
    """Print one mistake."""
    typer.echo(
        f"{problem.file}:{problem.line}: {kind}: {problem.field}: {problem.detail}\n    fix: {problem.fix}"
    )
