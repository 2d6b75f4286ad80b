"""Stage embed_texts: embed every text pool, and the zero-shot classifier, with one model."""

from collections.abc import Sequence

from optogram.data.pools import zeroshot_prompts
from optogram.models.folder import load_clip
from optogram.models.text_embeddings import embed_pool, embed_zeroshot
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write embeddings/<model>/<pool> for every pool, and embeddings/<model>/zeroshot."""
    sections = ("seed", "texts.pools", "texts.files")
    door = Doorway("embed_texts", argv, paths=("model", "texts", "images", "out"), sections=sections)
    clip = load_clip(door.folder("model"), device=door.params.device)
    prompts = zeroshot_prompts(door.open("images"))
    for name in door.params.texts.names:
        embedded = embed_pool(clip, door.open("texts", name), seed=door.params.seed)
        door.write(embedded, f"Embeddings of the text pool {name}", name)
    door.write(embed_zeroshot(clip, prompts), "Zero-shot classifier", "zeroshot")


if __name__ == "__main__":
    run(main)
