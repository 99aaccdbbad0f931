"""The comparison behind tools/check_evaluation: hssl, train embeddings, test embeddings."""

import gzip
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

# Points (of accuracy) that figures may differ by.
BOUNDS = {"linear": 0.3, "linear, 1 % of the labels": 0.3, "knn": 0.02, "retrieval": 0.02}


def labels_of(path: str) -> np.ndarray:
    """Labels by the index: of IDX files from their labels, of folders from the folder of each image."""
    names = [json.loads(line) for line in open(path + ".index.jsonl", encoding="utf-8")]
    names = [entry["path"] for entry in sorted((e for e in names if e["row"] is not None), key=lambda e: e["row"])]
    if "-images-idx3-ubyte" not in names[0]:
        return np.array([pathlib.PurePath(name).parts[-2] for name in names])
    known = {}
    found = []
    for name in names:
        file, number = name.rsplit("#", 1)
        if file not in known:
            labels = file.replace("-images-idx3-", "-labels-idx1-")
            data = gzip.open(labels).read() if labels.endswith(".gz") else open(labels, "rb").read()
            known[file] = np.frombuffer(data, np.uint8, offset=8)
        found.append(known[file][int(number)])
    return np.array(found)


def hssl(program: str, *arguments: str) -> tuple[dict, float]:
    start = time.monotonic()
    result = subprocess.run([program, "evaluate", *arguments, "--json", "-", "--log-level", "warning"],
                            stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(result.stdout), time.monotonic() - start


def weighted_knn(train, train_labels, test, test_labels, k, temperature=0.07):
    """The classifier that DINO's paper describes, in float64."""
    classes, codes = np.unique(train_labels, return_inverse=True)
    codes = torch.from_numpy(codes)
    truth = torch.from_numpy(np.searchsorted(classes, test_labels))
    reference = torch.nn.functional.normalize(torch.from_numpy(train).double(), dim=1).T
    queries = torch.nn.functional.normalize(torch.from_numpy(test).double(), dim=1)
    hits = [0, 0]
    for first in range(0, len(queries), 256):
        similarity, place = (queries[first:first + 256] @ reference).topk(k, dim=1)
        votes = torch.zeros(len(place), len(classes), dtype=torch.float64)
        votes.scatter_add_(1, codes[place], (similarity / temperature).exp())
        order = votes.argsort(dim=1, descending=True, stable=True)
        # A class without a vote is no hit here; DINO's script counts one that its sort happens to put fifth.
        ranked = (order == truth[first:first + 256, None]) & (votes.gather(1, order) > 0)
        hits[0] += int(ranked[:, :1].sum())
        hits[1] += int(ranked[:, :5].sum())
    return [hit / len(queries) for hit in hits]


def mean_average_precision(features, labels):
    """Leave one out, in float64."""
    x = torch.nn.functional.normalize(torch.from_numpy(features).double(), dim=1)
    codes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    total, first_hits = 0.0, 0
    for first in range(0, len(x), 256):
        similarity = x[first:first + 256] @ x.T
        rows = torch.arange(len(similarity))
        similarity[rows, first + rows] = -9  # itself comes last
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, :-1]
        relevant = (codes[order] == codes[first:first + 256, None]).double()
        precision = relevant.cumsum(1) / torch.arange(1, relevant.shape[1] + 1)
        total += float(((precision * relevant).sum(1) / relevant.sum(1)).sum())
        first_hits += int(relevant[:, 0].sum())
    return total / len(x), first_hits / len(x)


def main() -> int:
    program, train_path, test_path = sys.argv[1:]
    train, test = np.load(train_path), np.load(test_path)
    train_labels, test_labels = labels_of(train_path), labels_of(test_path)
    failed = []

    def compare(name, what, ours, theirs, seconds):
        bound = BOUNDS[name]
        agrees = abs(ours - theirs) * 100 <= bound
        print(f"{name}: {what}: hssl {100 * ours:.2f}, other {100 * theirs:.2f} (bound {bound} points; hssl took {seconds:.1f} s)",
              flush=True)
        if not agrees:
            failed.append(name)

    sets = ["--train-embeddings", train_path, "--test-embeddings", test_path]
    scaler = StandardScaler().fit(train)
    x, t = scaler.transform(train), scaler.transform(test)
    figures, seconds = hssl(program, "linear", *sets)
    strength = figures["draws"][0]["l2"]
    # sklearn's own optimum at the strength that was chosen: C weighs the sum of losses.
    other = LogisticRegression(C=1 / (strength * len(x)), max_iter=2000, tol=1e-4).fit(x, train_labels)
    compare("linear", f"top-1, λ {strength}", figures["top1"], other.score(t, test_labels), seconds)

    figures, seconds = hssl(program, "linear", *sets, "--fraction", "0.01", "--draws", "10")
    strengths = [draw["l2"] for draw in figures["draws"]]
    random = np.random.RandomState(0)
    scores = []
    for _ in range(30):
        rows = np.concatenate([
            random.permutation(np.where(train_labels == label)[0])[:max(1, round(0.01 * np.sum(train_labels == label)))]
            for label in np.unique(train_labels)])
        fit = LogisticRegression(C=1 / (np.median(strengths) * len(rows)), max_iter=2000)
        fit.fit(x[rows], train_labels[rows])
        scores.append(fit.score(t, test_labels))
    error = np.std(scores) / 30 ** 0.5 + np.std([draw["top1"] for draw in figures["draws"]]) / 10 ** 0.5
    # Other draws: beside the bound, two standard errors of the two means.
    BOUNDS["linear, 1 % of the labels"] = round(0.3 + 200 * error, 2)
    compare("linear, 1 % of the labels", "mean top-1", figures["top1"], float(np.mean(scores)), seconds)

    figures, seconds = hssl(program, "knn", *sets, "--k", "10,20,100,200")
    for row in figures["knn"]:
        top1, top5 = weighted_knn(train, train_labels, test, test_labels, row["k"])
        compare("knn", f"k {row['k']}: top-1", row["top1"], top1, seconds)
        compare("knn", f"k {row['k']}: top-5", row["top5"], top5, seconds)

    figures, seconds = hssl(program, "retrieval", "--embeddings", test_path)
    precision, recall = mean_average_precision(test, test_labels)
    compare("retrieval", "mAP", figures["map"], precision, seconds)
    compare("retrieval", "recall at 1", figures["recall"][0]["recall"], recall, seconds)
    print("check_evaluation: " + (f"differs: {', '.join(sorted(set(failed)))}" if failed else "ok"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
