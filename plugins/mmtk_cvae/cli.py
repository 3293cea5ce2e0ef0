"""``mmtk x cvae``: deformations drawn, carried over to another subject, and sorted, by their codes.

sample       deformations of an image that nobody has seen
transport    the deformation of one pair on another subject
encode       the codes of many pairs, and how groups lie among them
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from mmtk.cli.refusal import refusals

__all__ = ["app"]

app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0], no_args_is_help=True)

Weights = Annotated[str, typer.Option(help="A file of weights, or a bundle.")]
BUNDLE = "cvae_diffeomorphic"


def _check_files(**files: Path | None) -> None:
    from mmtk.errors import ConfigError

    problems = [
        f"{name}: no such file '{path}'" for name, path in files.items() if path is not None and not path.is_file()
    ]
    if problems:
        raise ConfigError(problems)


@app.command()
def sample(
    image: Annotated[Path, typer.Argument(help="Image to deform; what the decoder sees.")],
    weights: Weights = BUNDLE,
    count: Annotated[int, typer.Option(min=1, help="How many deformations.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the codes.")] = 0,
    spread: Annotated[float, typer.Option(min=0, help="Standard deviation of the codes; 1 is the prior's.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for images, maps, codes and the picture.")] = Path("sampled"),
) -> None:
    """Deform an image by codes drawn from the prior.

    For instance: mmtk x cvae sample heart_ed.nii.gz --count 8 --out drawn
    """
    with refusals():
        _check_files(image=image)
        from mmtk import io
        from mmtk_cvae.codes import drawn, load
        from mmtk_cvae.pictures import draw_rows

        found = drawn(load(weights), image, count, seed, spread)
        like = io.read_image(image)
        for number, each in enumerate(found):
            each.write(out, like, f"{number:03d}_")
        _write_codes(out / "codes.csv", [f"{n:03d}" for n in range(count)], [f.code.flatten() for f in found])
        draw_rows([{"image": like.data, f"code {n}": f} for n, f in enumerate(found[:8])], out / "sampled.png")
        folded = sum(each.folds for each in found)
        typer.echo(
            f"{count} deformations, {folded} voxels folded, determinants from "
            f"{min(f.jacobian.min() for f in found):.2f} to {max(f.jacobian.max() for f in found):.2f}\n"
            f"The folder: {out}\nThe picture: {out / 'sampled.png'}"
        )


@app.command()
def transport(
    moving: Annotated[Path, typer.Argument(help="Moving image of the pair that the deformation is of.")],
    fixed: Annotated[Path, typer.Argument(help="Its fixed image.")],
    onto: Annotated[Path, typer.Argument(help="Image of another subject.")],
    weights: Weights = BUNDLE,
    compare: Annotated[
        Path | None, typer.Option(help="The other subject's own fixed image, to be drawn beside.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the image, the map and the picture.")] = Path(
        "transported"
    ),
) -> None:
    """Carry the deformation of MOVING onto FIXED over to another subject.

    For instance: mmtk x cvae transport sick_ed.nii.gz sick_es.nii.gz well_ed.nii.gz --compare well_es.nii.gz
    """
    with refusals():
        _check_files(moving=moving, fixed=fixed, onto=onto, compare=compare)
        from mmtk import io
        from mmtk_cvae.codes import load, transported
        from mmtk_cvae.pictures import draw_rows

        method = load(weights)
        own, carried = transported(method, moving, fixed, onto)
        like = io.read_image(onto)
        carried.write(out, like)
        rows: list[dict[str, Any]] = [
            {"moving": io.read_image(moving).data, "fixed": io.read_image(fixed).data, "its deformation": own}
        ]
        target = like.data if compare is None else io.read_image(compare).data
        other = {"other subject": like.data, "as it is" if compare is None else "its own fixed image": target}
        rows.append({**other, "transported": carried})
        if compare is not None:
            rows.append({**other, "its own deformation": transported(method, onto, compare, onto)[0]})
        draw_rows(rows, out / "transported.png")
        typer.echo(
            f"{carried.folds} voxels folded, determinants from {carried.jacobian.min():.2f} to "
            f"{carried.jacobian.max():.2f}; of the pair itself from {own.jacobian.min():.2f} to "
            f"{own.jacobian.max():.2f}\n"
            f"The folder: {out}\nThe picture: {out / 'transported.png'}"
        )


@app.command()
def encode(
    table: Annotated[Path, typer.Argument(help="A .csv with columns moving, fixed, and perhaps subject, group.")],
    weights: Weights = BUNDLE,
    components: Annotated[int, typer.Option(min=1, help="Canonical components to classify by.")] = 5,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation, at most.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the codes and the picture.")] = Path("encoded"),
) -> None:
    """Write the code of every pair, and tell how groups lie among them.

    For instance: mmtk x cvae encode hearts.csv --out space
    """
    with refusals():
        pairs = _read_table(table)
        from mmtk_cvae.codes import encoded, load, sorted_out

        method = load(weights)
        if any(pair.get("group") for pair in pairs):
            import importlib.util

            from mmtk.errors import ConfigError

            if importlib.util.find_spec("sklearn") is None:
                raise ConfigError(
                    "encode: sorting by groups needs scikit-learn, which is not installed; "
                    "`pip install 'mmtk[cvae]'`, or leave out the column group"
                )
        found = encoded(method, pairs)
        _write_codes(out / "codes.csv", found.names, list(found.means), found.subjects, found.groups)
        typer.echo(f"{len(found.names)} codes of {found.means.shape[1]} numbers\nThe codes: {out / 'codes.csv'}")
        if found.groups:
            from mmtk_cvae.pictures import draw_sorted

            result = sorted_out(found, components, folds, seed)
            draw_sorted(result, out / "groups.png")
            typer.echo(
                f"{len(result.groups)} subjects of {len(set(result.groups))} groups: {result.accuracy:.0%} told "
                f"rightly, by cross-validation with {result.folds} folds; always naming the largest group: "
                f"{result.chance:.0%}; with a projection that has seen all subjects, too good: {result.leaked:.0%}\n"
                f"The picture: {out / 'groups.png'}"
            )


def _read_table(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table; paths count from its folder.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    from mmtk.errors import ConfigError

    _check_files(table=table)
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns, rows = set(reader.fieldnames or ()), list(reader)
    known = {"moving", "fixed", "subject", "group"}
    if not {"moving", "fixed"} <= columns or columns - known:
        raise ConfigError(
            f"{table}: the columns are {', '.join(sorted(columns)) or 'missing'}; they must be moving and fixed, and "
            "may be subject and group"
        )
    problems, pairs = [], []
    for number, row in enumerate(rows, start=1):
        pair = {key: value for key, value in row.items() if value}
        for name in ("moving", "fixed"):
            path = table.parent / Path(pair.get(name, "")).expanduser()
            if not path.is_file():
                problems.append(f"{table}: row {number}: {name}: no such file '{path}'")
            pair[name] = str(path)
        pairs.append(pair)
    if not pairs:
        problems.append(f"{table}: holds no pair; give one row for each")
    grouped = [bool(pair.get("group")) for pair in pairs]
    if any(grouped) and not all(grouped):
        problems.append(f"{table}: row {grouped.index(False) + 1} has no group; give all rows one, or none")
    if problems:
        raise ConfigError(problems)
    return pairs


def _write_codes(
    path: Path,
    names: list[str],
    codes: list[object],
    subjects: list[str] | None = None,
    groups: list[str] | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        rows = [[float(number) for number in code] for code in codes]  # type: ignore[attr-defined]
        head = ["name", *(["subject"] if subjects else []), *(["group"] if groups else [])]
        writer.writerow([*head, *(f"z{i}" for i in range(len(rows[0])))])
        for i, row in enumerate(rows):
            known = [names[i], *([subjects[i]] if subjects else []), *([groups[i]] if groups else [])]
            writer.writerow([*known, *(f"{number:.6g}" for number in row)])
