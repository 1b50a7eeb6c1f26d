"""REACT by hand: from class names to a customized CLIP, in seven steps of plain function calls.

Run `python examples/react_by_hand.py`. The stages do the same, and add artifacts and scale.
"""

from copy import deepcopy
from io import BytesIO
from pathlib import Path

import faiss
import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import normalize

from react_pipeline import clip, settings, training
from react_pipeline.extensions import demo


def react(domain: settings.DomainConfig, steps: int = 100) -> dict[str, float]:
    """Return the zero-shot accuracy of the base, of the customized model and of its control."""
    # 1. Start from class names, a CLIP, and a corpus: a table of captions. Images can wait.
    # Labelled images only measure, so pairs that show the subject of one of them are left out.
    base = clip.from_parts(*demo.build_base())
    pairs = demo.captions()
    labelled = pd.DataFrame(demo.labelled_images(domain.class_names))
    pairs = pairs[~pairs["subject"].isin(labelled["subject"])].reset_index(drop=True)
    # 2. Encode the corpus: class names are compared with captions.
    vectors = base.encode_texts(pairs["caption"].tolist())
    # 3. Index the vectors. They have unit length, so the inner product is the cosine.
    index = faiss.IndexFlatIP(base.dimension)
    index.add(vectors.numpy())
    # 4. Retrieve. Each class name in each template is a query. A pair belongs to its best class.
    prompts = clip.class_prompts(domain)
    similarities, rows = index.search(base.encode_texts(prompts["prompt"].tolist()).numpy(), 20)
    hits = pd.DataFrame({"row": rows.ravel(), "similarity": similarities.ravel()})
    hits["class"] = prompts["class"].repeat(rows.shape[1]).to_numpy()
    hits = hits.sort_values("similarity", ascending=False).drop_duplicates("row")
    retrieved = pairs.loc[hits.groupby("class").head(15)["row"]]
    # 5. Draw a control: as many random pairs. A gain that they share does not come from retrieval.
    random = pairs.sample(len(retrieved), random_state=0)
    # 6. Customize: train on the retrieved pairs, and in the same way on the random ones.
    models = {"base": base, "customized": customize(base, retrieved, steps)}
    models["control"] = customize(base, random, steps)
    # 7. Evaluate zero-shot. An image gets the class whose prompts are nearest to it.
    head = clip.zero_shot_head(base, domain.prompt_names, clip.prompt_templates(domain))
    images = torch.stack([base.preprocess(image) for image in labelled["image"]])
    truth = labelled["class"].map(domain.class_names.index).to_numpy()
    predicted = {name: (m.encode_images(images) @ head).argmax(1) for name, m in models.items()}
    return {name: (ids.numpy() == truth).mean() for name, ids in predicted.items()}


def customize(base: clip.Clip, pairs: pd.DataFrame, steps: int) -> clip.Clip:
    """Train gated blocks: new layers that change nothing at first, inside a tower that is
    frozen.
    """
    custom = deepcopy(base)
    torch.manual_seed(0)
    clip.add_gated_blocks(custom.model, last_k_layers=2)
    training.GatedImage().set_trainable(custom.model)
    # Nothing changes before the first new block, so each image passes there once, not every step.
    tower = clip.ImageTower(custom.model)
    images = [Image.open(BytesIO(image)) for image in demo.drawn(pairs["key"])]
    pixels = torch.stack([base.preprocess(image) for image in images])
    tokens = torch.cat([tower.tokens(part) for part in pixels.split(64)])
    texts = base.encode_texts(pairs["caption"].tolist())
    trained = [weight for weight in custom.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randperm(len(pairs))[:128]
        images = normalize(tower.features(tokens[batch]), dim=-1)
        # Each image moves towards its own caption, and away from the other captions of the batch.
        scale = custom.model.logit_scale.exp()
        training.contrastive_loss(images, texts[batch], scale).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return custom


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "domains" / "activities.yaml"
    for name, accuracy in react(settings.load_domain(file)).items():
        print(f"{name:12s} {accuracy:.1%}")
