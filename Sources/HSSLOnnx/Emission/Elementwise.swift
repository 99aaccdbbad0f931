import HSSLGraph
import HSSLModels

/// Functions of elements, factors and sums.
extension Emission {
    mutating func unary(_ node: Node, _ function: Operation.Unary) throws {
        let x = node.inputs[0]
        let first = isChannelsFirst(x)
        let input = first ? try channelsFirst(x) : try plain(x)
        let y = switch function {
        case .relu: graph.add("Relu", [input], label(node))
        case .gelu: try gelu(input, label(node))
        }
        if first { set(node, channelsFirst: y) } else { set(node, y) }
    }

    /// x·Φ(x) in the form that runtimes recognise: 0.5·(x·(1 + erf(x/√2))).
    mutating func gelu(_ x: String, _ label: String) throws -> String {
        let ratio = graph.add("Div", [x, try graph.scalar(Float(2).squareRoot())], label)
        let erf = graph.add("Erf", [ratio], label)
        let sum = graph.add("Add", [erf, try graph.scalar(1)], label)
        let product = graph.add("Mul", [x, sum], label)
        return graph.add("Mul", [product, try graph.scalar(0.5)], label)
    }

    /// [..., 2·H] → silu(first half)·second half.
    mutating func gated(_ node: Node) throws {
        let label = label(node)
        let parts = graph.add("Split", [try plain(node.inputs[0])], label, [.int("axis", -1)], outputs: 2)
        let gate = graph.add("Sigmoid", [parts[0]], label)
        let silu = graph.add("Mul", [parts[0], gate], label)
        set(node, graph.add("Mul", [silu, parts[1]], label))
    }

    /// A layer scale that no product took.
    mutating func scaleChannels(_ node: Node) throws {
        let x = node.inputs[0], channels = node.shape.last ?? 1, name = parameterName(node, 1)
        let factors = try constant(node, 1, "the factors of channels")
        if isChannelsFirst(x) {
            let gamma = try graph.weights(factors, shape: [channels, 1, 1], name)
            set(node, channelsFirst: graph.add("Mul", [try channelsFirst(x), gamma], label(node)))
        } else {
            let gamma = try graph.weights(factors, shape: [channels], name)
            set(node, graph.add("Mul", [try plain(x), gamma], label(node)))
        }
    }

    mutating func scaleRows(_ node: Node) throws {
        set(node, graph.add("Mul", try node.inputs.map { try plain($0) }, label(node)))
    }

    mutating func residual(_ node: Node) throws {
        if node.shape.count == 4, node.inputs.allSatisfy({ isChannelsFirst($0) }) {
            let operands = try node.inputs.map { try channelsFirst($0) }
            set(node, channelsFirst: graph.add("Add", operands, label(node)))
        } else {
            set(node, graph.add("Add", try node.inputs.map { try plain($0) }, label(node)))
        }
    }

    mutating func addBroadcast(_ node: Node) throws {
        guard node.shape.first == 1 else {
            throw ModelError("operation addBroadcast over several samples an image cannot be exported")
        }
        set(node, graph.add("Add", try node.inputs.map { try plain($0) }, label(node)))
    }
}
