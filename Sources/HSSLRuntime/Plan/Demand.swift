import HSSLGraph

/// Which elements of each value the wanted outputs depend on: the rest is never computed.
///
/// CLS features need one row of the last block's MLP, projection and attention, a twelfth of a ViT's products being
/// that block. Of its queries, keys and values all keys and values are wanted.
struct Demand {
    /// Wanted elements of each value, row-major.
    private(set) var ranges: [Range<Int>?]

    /// Gives every node the range that it computes.
    init(_ graph: inout PlanGraph) {
        ranges = Array(repeating: nil, count: graph.counts.count)
        for index in graph.nodes.indices.reversed() {
            let node = graph.nodes[index]
            let wanted = node.computesAll ? 0..<graph.counts[node.output] : ranges[node.output] ?? 0..<0
            ranges[node.output] = wanted
            graph.nodes[index].range = wanted
            add(node.wantedInput(wanted, count: graph.counts[node.x]), of: node.x)
            if let residual = node.residualValue { add(wanted, of: residual) }
        }
    }

    private mutating func add(_ range: Range<Int>, of value: Int) {
        if range.isEmpty { return }
        ranges[value] =
            ranges[value].map { min($0.lowerBound, range.lowerBound)..<max($0.upperBound, range.upperBound) } ?? range
    }

    /// Rows of `width` that cover the elements.
    static func rows(_ range: Range<Int>, width: Int) -> Range<Int> {
        range.lowerBound / width..<(range.upperBound + width - 1) / width
    }
}

extension PlanNode {
    /// Whether it computes its output as a whole, whatever is wanted.
    fileprivate var computesAll: Bool {
        switch work {
        case .unfold, .groupNorm, .depthwiseConv, .pool, .rotate, .transpose, .mean, .output: true
        case .attention(_, let bias, let mask, _): shape[0] > 1 || bias != nil || mask != nil
        case .permute: shape.count == 3 && shape[0] > 1
        case .product, .layerNorm, .elementwise, .scaleChannels, .gated, .prepend, .view, .l2Normalize, .quantize: false
        }
    }

    /// Elements of x that some elements of the output depend on.
    fileprivate func wantedInput(_ output: Range<Int>, count: Int) -> Range<Int> {
        let rows = Demand.rows(output, width: width)
        func elements(_ rows: Range<Int>, _ width: Int) -> Range<Int> {
            rows.lowerBound * width..<rows.upperBound * width
        }
        switch work {
        case .product(let product): return elements(Demand.rows(output, width: product.outputs), product.inputs)
        case .layerNorm, .scaleChannels, .l2Normalize, .quantize: return elements(rows, width)
        case .elementwise: return output
        case .view(let shift): return output.lowerBound + shift..<output.upperBound + shift
        case .gated: return elements(rows, 2 * width)
        case .prepend(let token):
            let first = token.count / width
            return elements(max(rows.lowerBound, first) - first..<max(rows.upperBound, first) - first, width)
        case .permute(let index, _):
            if computesAll { return 0..<count }
            let sources = index[rows].filter { $0 >= 0 }.map(Int.init)
            guard let first = sources.min(), let last = sources.max() else { return 0..<0 }
            return elements(first..<last + 1, width)
        case .unfold, .groupNorm, .attention, .rotate, .depthwiseConv, .pool, .transpose, .mean, .output:
            return 0..<count
        }
    }
}
