import HSSLGraph
import HSSLModels

/// Attention as MatMul, Softmax and MatMul of every head: what runtimes join into one operator of theirs.
extension Emission {
    mutating func attention(_ node: Node, heads count: Int, bias: Bool, mask: Bool) throws {
        let label = label(node), tokens = node.shape[1], width = node.shape[2]
        let parts = try heads(node.inputs[0], count)
        let factor = try graph.scalar(1 / Float(width / count).squareRoot())
        // Next to the product, which then takes the factor along.
        let queries = graph.add("Mul", [graph.transpose(parts[0], [0, 2, 1, 3], label), factor], label)
        let keys = graph.transpose(parts[1], [0, 2, 3, 1], label)
        let values = graph.transpose(parts[2], [0, 2, 1, 3], label)
        var scores = graph.add("MatMul", [queries, keys], label)
        if bias || mask { scores = try biased(scores, node, heads: count, bias: bias, mask: mask) }
        let shares = graph.add("Softmax", [scores], label, [.int("axis", -1)])
        let mixed = graph.transpose(graph.add("MatMul", [shares, values], label), [0, 2, 1, 3], label)
        set(node, graph.reshape(mixed, [-1, tokens, width], label))
    }

    /// Scores [B, heads, N, N] plus bias [heads, N, N] and mask [W, N, N], joined: sample b takes mask b mod W.
    private mutating func biased(
        _ scores: String, _ node: Node, heads: Int, bias: Bool, mask: Bool
    ) throws -> String {
        let label = label(node), area = node.shape[1] * node.shape[1], tokens = node.shape[1]
        let added = bias ? try constant(node, 1, "the bias of attention") : [Float](repeating: 0, count: heads * area)
        let name = bias ? parameterName(node, 1) : "\(label).bias"
        guard mask else {
            return graph.add(
                "Add", [scores, try graph.weights(added, shape: [heads, tokens, tokens], name)], label)
        }
        let masks = try constant(node, node.inputs.count - 1, "the mask of attention")
        let windows = masks.count / area
        var sums: [Float] = []
        sums.reserveCapacity(windows * added.count)
        for window in 0..<windows {
            for head in 0..<heads {
                for place in 0..<area { sums.append(added[head * area + place] + masks[window * area + place]) }
            }
        }
        let sum = try graph.weights(sums, shape: [windows, heads, tokens, tokens], name)
        let grouped = graph.reshape(scores, [-1, windows, heads, tokens, tokens], label)
        return graph.reshape(graph.add("Add", [grouped, sum], label), [-1, heads, tokens, tokens], label)
    }

    /// Queries and keys turned: x·cos + (second half, first half)·(−sin, sin).
    mutating func rotate(_ node: Node, heads count: Int) throws {
        let label = label(node), tokens = node.shape[1], width = node.shape[2] / (3 * count), half = width / 2
        let (cosine, sine) = try rotation(node.inputs[1]) { emission in
            let table = try emission.constant(node, 1, "a table of angles")
            var cosines: [Float] = [], sines: [Float] = []
            for token in 0..<tokens {
                let row = table[token * width..<(token + 1) * width]
                let (cosine, sine) = (row.prefix(half), row.suffix(half))
                cosines += cosine + cosine
                sines += sine.map { -$0 } + sine
            }
            let shape = [tokens, 1, width]
            return (
                try emission.graph.weights(cosines, shape: shape, "rotation.cosine"),
                try emission.graph.weights(sines, shape: shape, "rotation.sine"))
        }
        var parts = try heads(node.inputs[0], count)
        for place in 0..<2 {
            let halves = graph.add("Split", [parts[place]], label, [.int("axis", -1)], outputs: 2)
            let swapped = graph.add("Concat", [halves[1], halves[0]], label, [.int("axis", -1)])
            let straight = graph.add("Mul", [parts[place], cosine], label)
            let crossed = graph.add("Mul", [swapped, sine], label)
            parts[place] = graph.add("Add", [straight, crossed], label)
        }
        set(node, heads: parts)
    }
}
