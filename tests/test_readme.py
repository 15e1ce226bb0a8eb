"""The README's code runs as it stands."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "README", "exec"), names)
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL)[1].splitlines()
    printed = capsys.readouterr().out.splitlines()
    # All but the last digits and the seconds, which depend on the machine.
    assert [line[:18] for line in printed[:6]] == [line[:18] for line in shown[:6]]
    assert names["search"].best_score_ > 0.9
    assert names["result"].success
    assert abs(names["stream"].popt_[1] - 1.3) < 5 * names["stream"].perr_[1]
