"""Show what you guessed in the notebooks and how good your guesses were, or join those of a class."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to a CSV file")
    parser.add_argument(
        "--class", dest="folder", type=Path, metavar="FOLDER", help="join the CSV files there, one per student"
    )


def run(options: argparse.Namespace) -> None:
    from sparsity_lab.files import write_text
    from sparsity_lab.guesses import COIN, brier, class_table, for_reading, guess_table, guesses_csv, load_guesses

    if options.folder is None:
        table = guess_table(load_guesses().values())
    else:
        if not options.folder.is_dir():
            raise ValueError(f"class={options.folder} is not a folder")
        table, problems = class_table(options.folder)
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        if table.empty:
            raise ValueError(f"class={options.folder} holds no guesses: put the students' CSV files there")

    if table.empty:
        print("You have made no guesses yet: the notebooks ask for them.")
    else:
        print(for_reading(table).to_string(index=False))
        counted = int(table["counted"].sum())
        people = f"{table['student'].nunique()} students, " if "student" in table else ""
        score = f"Brier score {brier(table):.3f} (always 50 % sure: {COIN})" if counted else "no score yet"
        print(f"\n{people}{len(table)} guesses, {counted} of them counted: {score}")
    if options.csv:
        write_text(options.csv, guesses_csv(table))
        print(f"written to {options.csv}", file=sys.stderr)
