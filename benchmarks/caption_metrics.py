"""Caption metrics of MM beside pycocoevalcap: CPU seconds, peak memory and values, on captions made on the spot.

    pip install --no-deps --target build/pycocoevalcap pycocoevalcap pycocotools     # 100 MB; its tokeniser and METEOR
    python benchmarks/caption_metrics.py --pycocoevalcap build/pycocoevalcap         # are Java programs

5,000 captions with 5 references each: BLEU, ROUGE-L, METEOR, CIDEr-D and the tokeniser, each side in a process of its
own. CPU seconds are those of the process and of the Java it starts, memory is that of the larger of the two. Then all
n-gram metrics of 10,000 pairs, with and without chrF, which sacrebleu counts. Without Java both sides leave METEOR
out, and the captions of pycocoevalcap are not split. METEOR is that of 2007 here, and 1.5 with paraphrases there;
ROUGE-L is that of the best reference here.
"""

import random
import resource
import shutil
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

SUBJECTS = "man,woman,boy,girl,dog,cat,horse,bird,bus,train,couple,group of people,child,skateboarder,zebra".split(",")
ADJECTIVES = ",,,small,young,old,red,white,brown,large,little,black".split(",")
VERBS = "sits on,stands near,rides,walks past,is looking at,jumps over,plays with,lies under,holds,eats".split(",")
OBJECTS = "a bench,the street,a wooden table,a red ball,grass,a surfboard,the beach,a skateboard,some food".split(",")
PLACES = ",,in a park,on a sunny day,next to a building,in the snow,with trees in the background,at night".split(",")
ENDS = ".", "", " .", "!"


def captions(number: int, references: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Made-up captions, the references of one picture with the same subject."""
    draw = random.Random(seed)

    def sentence(subject: str) -> str:
        words = ["a", draw.choice(ADJECTIVES), subject, draw.choice(VERBS), draw.choice(OBJECTS), draw.choice(PLACES)]
        return " ".join(word for word in words if word).capitalize() + draw.choice(ENDS)

    subjects = [draw.choice(SUBJECTS) for _ in range(number)]
    return [sentence(one) for one in subjects], [[sentence(one) for _ in range(references)] for one in subjects]


def ours(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    from mm.evaluation.captions import caption_scores

    names = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", *(["meteor"] if java else [])]
    found = caption_scores(told, truth, names, tokenizer="coco")
    return {name: score.value for name, score in found.items()}


def theirs(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    def part(module: str, name: str) -> Any:
        return getattr(import_module(f"pycocoevalcap.{module}"), name)

    given, said = dict(enumerate(truth)), {number: [caption] for number, caption in enumerate(told)}
    if java:
        split = part("tokenizer.ptbtokenizer", "PTBTokenizer")().tokenize

        def rows(captions: dict) -> dict:
            return {key: [{"caption": caption} for caption in value] for key, value in captions.items()}

        given, said = split(rows(given)), split(rows(said))
    bleus = part("bleu.bleu", "Bleu")(4).compute_score(given, said, verbose=0)[0]
    found = {f"bleu{n}": value for n, value in enumerate(bleus, start=1)}
    found["rouge_l"] = part("rouge.rouge", "Rouge")().compute_score(given, said)[0]
    found["cider_d"] = part("cider.cider", "Cider")().compute_score(given, said)[0]
    if java:
        found["meteor"] = part("meteor.meteor", "Meteor")().compute_score(given, said)[0]
    return found


def pairs(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    """CPU seconds of all n-gram metrics but chrF, and of chrF."""
    from mm.evaluation.captions import CAPTION_METRICS, caption_scores

    start = time.process_time()
    caption_scores(told, truth, [name for name in CAPTION_METRICS if name != "chrf"])
    between = time.process_time()
    caption_scores(told, truth, ["chrf"])
    return {"chrf": time.process_time() - between, "rest": between - start}


def measure(side: str, number: int, references: int, java: bool) -> None:
    """Runs one side here and prints CPU seconds, seconds, MiB and values, leaving imports out of the time."""
    told, truth = captions(number, references)
    run = {"ours": ours, "theirs": theirs, "pairs": pairs}[side]
    if side != "theirs":  # what is imported is not what is measured
        import mm.metrics  # noqa: F401
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    before = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in whose)
    start = time.perf_counter()
    values = run(told, truth, java)
    wall = time.perf_counter() - start
    after = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in whose)
    memory = max(resource.getrusage(who).ru_maxrss for who in whose) / 1024
    print(after - before, wall, memory, *(values[name] for name in sorted(values)))


def main() -> int:
    import harness  # not above: it imports torch, which pycocoevalcap does without
    import torch

    parser = harness.options(__doc__, pairs=3)
    parser.add_argument("--pycocoevalcap", type=Path, help="the folder it is installed in, if not in this environment")
    asked = parser.parse_args()
    items, java = 200 if asked.tiny else 5000, shutil.which("java") is not None
    report = harness.Report(asked)
    what = "BLEU, ROUGE-L, CIDEr-D" + (", METEOR and the tokeniser" if java else " (no Java: no METEOR, no tokeniser)")
    report.say(f"{items} captions, 5 references each: {what}")
    found: dict[str, list[float]] = {}

    def cost(side: str) -> harness.Cost:
        folder = str(asked.pycocoevalcap or "")
        found[side] = harness.alone(__file__, "--side", side, str(items), "5", str(int(java)), folder)
        report.row(side=side, numbers=found[side])
        return harness.Cost(wall=found[side][1], cpu=found[side][0])

    costs = harness.in_turn({side: side for side in ("ours", "theirs")}, asked.pairs, warm_up=0, cost=cost)
    names = sorted(["bleu1", "bleu2", "bleu3", "bleu4", "cider_d", "rouge_l", *(["meteor"] if java else [])])
    for side, numbers in found.items():
        values = "  ".join(f"{name} {value:.4f}" for name, value in zip(names, numbers[3:], strict=True))
        report.say(f"{side:<7} {harness.median(costs[side]):7.2f} CPU-s {numbers[2]:6.0f} MiB   {values}")
    same = [names.index(name) + 3 for name in names if name not in ("meteor", "rouge_l")]
    report.equal(
        "values", *(torch.tensor([found[side][n] for n in same]).double() for side in ("ours", "theirs")), 1e-6
    )
    faster = harness.ratio(costs["theirs"], costs["ours"])
    report.say(f"{faster.median:.1f} times as fast [{faster.least:.1f}, {faster.greatest:.1f}]")
    report.want("CPU seconds of pycocoevalcap against ours", faster.median, 5)
    report.want("memory of pycocoevalcap against ours", found["theirs"][2] / found["ours"][2], 1)
    number = "200" if asked.tiny else "10000"
    runs = [harness.alone(__file__, "--side", "pairs", number, "1", "0", "")[-2:] for _ in range(asked.pairs)]
    chrf, rest = (statistics.median(column) for column in zip(*runs, strict=True))
    report.say(
        f"{200 if asked.tiny else 10_000} pairs: {rest:.2f} CPU-s without chrF, {rest + chrf:.2f} CPU-s with it"
    )
    report.want("2 CPU-s against n-gram metrics without chrF", 2 / rest, 1)
    report.want("6 CPU-s against all n-gram metrics", 6 / (rest + chrf), 1)
    return report.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:  # a process of its own for one side
        if sys.argv[6]:
            sys.path.insert(0, sys.argv[6])
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
    else:
        sys.exit(main())
