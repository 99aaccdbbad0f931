import HSSLGraph
import HSSLModels

/// Tokens that are added, taken, moved or averaged.
extension Emission {
    /// first [1, k, D] before the tokens of every image.
    mutating func prependToken(_ node: Node) throws {
        guard node.shape[0] == 1 else {
            throw ModelError("operation prependToken over several samples an image cannot be exported")
        }
        let label = label(node), first = try plain(node.inputs[1]), shape = trace.tape.shapes[node.inputs[1]]
        let repeated = graph.add("Expand", [first, try batchShape(shape.dropFirst())], label)
        set(node, graph.add("Concat", [repeated, try plain(node.inputs[0])], label, [.int("axis", 1)]))
    }

    /// The shape [batch, …] as a value.
    private mutating func batchShape(_ rest: ArraySlice<Int>) throws -> String {
        let images = try plain(trace.images.id)
        let shape = graph.add("Shape", [images], Name.images, [.int("start", 0), .int("end", 1)])
        return graph.add("Concat", [shape, graph.integers(Array(rest))], Name.images, [.int("axis", 0)])
    }

    /// Rows of one image: x [R, D] → [index.count, D].
    mutating func gatherRows(_ node: Node, _ index: [Int32]) throws {
        let label = label(node), shape = trace.tape.shapes[node.inputs[0]], width = node.shape[1]
        let rows = shape.reduce(1, *) / width
        var x = try plain(node.inputs[0])
        if shape != [1, rows, width] { x = graph.reshape(x, [-1, rows, width], label) }
        let taken = taking(index, of: rows, x, label)
        set(node, graph.reshape(taken, [-1, width], label))
    }

    /// x [B, N, D] → y[b, i] = x[b, index[i]], zeros where that is −1.
    mutating func permuteTokens(_ node: Node, _ index: [Int32]) throws {
        let label = label(node), tokens = trace.tape.shapes[node.inputs[0]][1]
        let x = try plain(node.inputs[0])
        guard index.contains(-1) else { return set(node, taking(index, of: tokens, x, label)) }
        // One token of zeros behind the others.
        let padded = graph.add("Pad", [x, graph.integers([0, 0, 0, 0, 1, 0])], label)
        set(node, taking(index.map { $0 < 0 ? Int32(tokens) : $0 }, of: tokens + 1, padded, label))
    }

    /// x [B, N, D] at places of its second axis; those that follow one another are a slice.
    private mutating func taking(_ index: [Int32], of count: Int, _ x: String, _ label: String) -> String {
        let first = Int(index.first ?? 0)
        if index.enumerated().allSatisfy({ Int($1) == first + $0 }) {
            if first == 0, index.count == count { return x }
            return graph.add(
                "Slice", [x, graph.integers([first]), graph.integers([first + index.count]), graph.integers([1])],
                label)
        }
        return graph.add("Gather", [x, graph.integers(index.map { Int($0) })], label, [.int("axis", 1)])
    }

    mutating func meanTokens(_ node: Node) throws {
        set(node, graph.add(
            "ReduceMean", [try plain(node.inputs[0])], label(node), [.ints("axes", [1]), .int("keepdims", 0)]))
    }
}
