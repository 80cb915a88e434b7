"""A table says the same in Markdown and on the terminal, whatever characters its cells hold."""

from hf_privseg.reporting.tables import latex_table, markdown_table, terminal, terminal_table


def test_markdown_has_a_line_for_the_head_a_rule_and_a_line_for_each_row():
    assert markdown_table(["a", "b"], [["1", "2"], ["3", ""]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"


def test_a_cell_cannot_break_a_markdown_table():
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines()[2] == r"| x\|y z |"


def test_the_terminal_shows_title_heads_and_cells_as_they_are():
    console = terminal()
    console.width = 60
    with console.capture() as shown:
        console.print(terminal_table("a [title]", ["head"], [["[bold]cell"]]))
    text = shown.get()
    assert all(part in text for part in ("a [title]", "head", "[bold]cell"))


def test_latex_tables_are_those_of_booktabs_with_every_character_escaped():
    text = latex_table("50 % of A_1 & `B`", ("way", "s"), [("a|b\\c", "1.0"), ("{x}~y", "<2")])
    assert text.splitlines() == [
        r"\begin{table}",
        r"\caption{50 \% of A\_1 \& \texttt{B}}",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"way & s \\",
        r"\midrule",
        r"a\textbar{}b\textbackslash{}c & 1.0 \\",
        r"\{x\}\textasciitilde{}y & \textless{}2 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
