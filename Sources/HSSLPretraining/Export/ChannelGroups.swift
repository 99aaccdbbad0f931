import HSSLGraph
import HSSLModels

/// Channels that one layer makes and products alone read: their scale may move from the one to the others, with the
/// function unchanged.
struct ChannelGroup {
    /// Parameters whose rows make the channels, in the order of these: weight and bias of a norm, or the rows of V.
    let makers: [(name: String, rows: Range<Int>)]
    /// Weights of the products, whose columns (of K elements, channels fastest) read them.
    let readers: [String]

    var channels: Int { makers[0].rows.count }
}

extension ModelTrace {
    /// All such groups: norm → products, and attention's V → projection, also across moved tokens, windows and ReLU.
    var channelGroups: [ChannelGroup] {
        let graph = ChannelGraph(self)
        return tape.nodes.compactMap { node in
            switch node.operation {
            case .layerNorm, .groupNorm:
                let width = node.shape[node.shape.count - 1]
                return graph.group(node.output, channels: width, madeBy: node.inputs.dropFirst(), from: 0)
            case .attention:
                guard let product = graph.product(behind: node.inputs[0]) else { return nil }
                let width = node.shape[node.shape.count - 1]
                return graph.group(node.output, channels: width, madeBy: product.inputs.dropFirst(), from: 2 * width)
            default: return nil
            }
        }
    }

    /// The policy's products in their order: the name of each one's weight.
    var policyProducts: [String] {
        let graph = ChannelGraph(self)
        return tape.nodes.compactMap { node in
            guard case .linear(_, _, .policy) = node.operation else { return nil }
            return graph.parameters[node.inputs[1]]?.name
        }
    }
}

private struct ChannelGraph {
    private let nodes: [Node]
    private let outputs: Set<Int>
    private let policyWeights: Set<String>
    /// (node, position among its inputs) of all who read a value.
    private var uses: [Int: [(node: Int, position: Int)]] = [:]
    private var makers: [Int: Int] = [:]
    /// Parameters by value, also in another order of their elements.
    private(set) var parameters: [Int: Parameter] = [:]

    init(_ trace: ModelTrace) {
        nodes = trace.tape.nodes
        outputs = [trace.global.id, trace.local.id]
        policyWeights = trace.policyWeights
        for (index, node) in nodes.enumerated() {
            makers[node.output] = index
            for (position, input) in node.inputs.enumerated() {
                uses[input, default: []].append((index, position))
                if let parameter = trace.tape.parameter(of: input) { parameters[input] = parameter }
            }
            switch node.operation {
            case .reshape, .transposeTokens: parameters[node.output] = parameters[node.inputs[0]]
            default: break
            }
        }
    }

    /// The product whose result this is, read by nobody else.
    func product(behind value: Int) -> Node? {
        guard uses[value]?.count == 1, let maker = makers[value] else { return nil }
        switch nodes[maker].operation {
        case .linear(_, .none, _): return nodes[maker]
        case .reshape: return product(behind: nodes[maker].inputs[0])
        default: return nil
        }
    }

    /// - Parameters:
    ///   - values: the parameters that make the channels.
    ///   - start: their first row.
    func group(_ output: Int, channels: Int, madeBy values: ArraySlice<Int>, from start: Int) -> ChannelGroup? {
        let made = values.compactMap { value -> Parameter? in
            guard uses[value]?.count == 1 else { return nil }
            return parameters[value]
        }
        guard made.count == values.count, !made.isEmpty, made.allSatisfy({ $0.shape[0] == start + channels }),
              let readers = readers(of: output, channels: channels), !readers.isEmpty,
              Set(readers).count == readers.count else { return nil }
        return ChannelGroup(makers: made.map { ($0.name, start..<start + channels) }, readers: readers)
    }

    /// The products that read a value, or what keeps its channels apart makes of it; nil where anything else does.
    private func readers(of value: Int, channels: Int) -> [String]? {
        if outputs.contains(value) { return nil }
        var result: [String] = []
        for use in uses[value] ?? [] {
            let node = nodes[use.node]
            guard use.position == 0 else { return nil }
            switch node.operation {
            case .linear(_, _, .policy):
                let weight = node.inputs[1]
                guard let parameter = parameters[weight], policyWeights.contains(parameter.name),
                      uses[weight]?.count == 1, parameter.count / parameter.shape[0] % channels == 0 else { return nil }
                result.append(parameter.name)
            case .reshape, .permuteTokens, .gatherRows, .meanTokens, .unary(.relu), .pool, .unfold(_, _, _, .grid):
                guard node.shape[node.shape.count - 1] % channels == 0,
                      let more = readers(of: node.output, channels: channels) else { return nil }
                result += more
            default: return nil
            }
        }
        return result
    }
}
