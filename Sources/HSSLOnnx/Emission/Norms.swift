import HSSLGraph
import HSSLModels

/// Norms.
extension Emission {
    /// LayerNormalization, which computes in float32 whatever it reads.
    mutating func layerNorm(_ node: Node, epsilon: Float) throws {
        set(node, graph.add(
            "LayerNormalization", try node.inputs.map { try plain($0) }, label(node),
            [.int("axis", -1), .float("epsilon", epsilon)]))
    }

    /// Of opset 17: instances of [B, groups, ·] are normalised, then channels scaled and shifted.
    mutating func groupNorm(_ node: Node, groups: Int, epsilon: Float) throws {
        guard node.shape.count == 4 else { throw ModelError("a group norm of \(node.shape) cannot be exported") }
        let (height, width, channels) = (node.shape[1], node.shape[2], node.shape[3])
        let label = label(node)
        let elements = height * width * channels / groups
        let grouped = graph.reshape(try channelsFirst(node.inputs[0]), [-1, groups, elements], label)
        let ones = try graph.weights(Array(repeating: 1, count: groups), shape: [groups], "\(label).ones")
        let zeros = try graph.weights(Array(repeating: 0, count: groups), shape: [groups], "\(label).zeros")
        let normed = graph.add("InstanceNormalization", [grouped, ones, zeros], label, [.float("epsilon", epsilon)])
        var y = graph.reshape(normed, [-1, channels, height, width], label)
        for (position, operation) in [(1, "Mul"), (2, "Add")] {
            let factors = try graph.weights(
                try constant(node, position, "the weight of a norm"), shape: [channels, 1, 1],
                parameterName(node, position))
            y = graph.add(operation, [y, factors], label)
        }
        set(node, channelsFirst: y)
    }

    /// x / max(‖x‖, ε) by row.
    mutating func l2Normalize(_ node: Node, epsilon: Float) throws {
        let x = try plain(node.inputs[0]), label = label(node)
        let norm = graph.add("ReduceL2", [x], label, [.ints("axes", [-1]), .int("keepdims", 1)])
        let bounded = graph.add("Max", [norm, try graph.scalar(epsilon)], label)
        set(node, graph.add("Div", [x, bounded], label))
    }
}
