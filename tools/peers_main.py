"""The command line of tools/peers; started by it inside its virtual environment."""

import argparse
import sys

from peers_common import Fault, build, load, note

PARTS = {
    "extract": "images/s in memory beside PyTorch, ONNX Runtime and OpenVINO",
    "cosine": "our features, and the peers' int8 features, beside PyTorch float32",
    "pipeline": "a folder of JPEGs beside Pillow workers and OpenVINO",
    "small": "memory, time to the first embedding, size of the static binary",
    "pretrain": "pretraining steps beside PyTorch",
}


def run(part: str, options: argparse.Namespace) -> bool:
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 4)
    if part == "extract" and options.architecture != "vit_small":
        import peers_families

        return peers_families.rates(options.architecture.split(","), rounds, seconds)
    if part == "extract":
        import peers_extract

        return peers_extract.rates(rounds, seconds)
    if part == "cosine":
        import peers_extract

        return peers_extract.cosine(32 if options.quick else peers_extract.TEST_IMAGES)
    if part == "pipeline":
        import peers_pipeline

        return peers_pipeline.pipeline(rounds, 200 if options.quick else 2000)
    if part == "small":
        import peers_small

        return peers_small.small(3 if options.quick else 15)
    import peers_pretrain

    return peers_pretrain.pretrain(rounds, seconds if options.seconds or options.quick else 20, options.configurations,
        options.objectives)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/peers", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Times HSSL beside its peers in one run; see docs/peers.md.",
        epilog="parts:\n" + "\n".join(f"  {name:9} {text}" for name, text in PARTS.items())
        + "\n  all       every one of these")
    parser.add_argument("parts", nargs="*", metavar="part", choices=[*PARTS, "all", []], help="default: extract cosine")
    parser.add_argument("--rounds", type=int, help="rounds of interleaved slices (default 5)")
    parser.add_argument("--seconds", type=float, help="length of a slice (default 4; pretrain 20)")
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that it works; its figures mean nothing")
    parser.add_argument(
        "--architecture", default="vit_small", metavar="A,…",
        help="of extract: vit_small (default), or others with commas between them: swin_tiny,convnext_tiny,resnet50_gn")
    parser.add_argument("--configurations", default="nano,small", help="of pretrain: nano, small or both (default)")
    parser.add_argument(
        "--objectives", metavar="O,…",
        help="of pretrain: ibot, dino, mocov3, byol, simmim beside the same objective in PyTorch (default: the "
        "published iBOT step alone)")
    options = parser.parse_args()
    parts = list(PARTS) if "all" in options.parts else options.parts or ["extract", "cosine"]
    reached = True
    if load() > 0.5:
        note(f"warning: the load average is {load():.2f} before anything started")
    try:
        build()
        for part in parts:
            reached &= run(part, options)
    except Fault as fault:
        note(f"error: {fault}")
        return 1
    if not reached:
        note("some goals are missed, or void on a busy machine")
    # A figure is not a fault: the exit status says only whether everything was measured.
    return 0


sys.exit(main())
