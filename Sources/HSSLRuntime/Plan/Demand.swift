import HSSLGraph

/// Which elements of each value the wanted outputs depend on: the rest is never computed.
///
/// CLS features need one row of the last block's MLP, projection and attention, a twelfth of a ViT's products being that block. Of its queries, keys and values
/// all keys and values are wanted.
struct Demand {
    /// Wanted elements of each value, row-major; nil: dead.
    private(set) var ranges: [Range<Int>?]
    /// Steps that will read each value, outputs included.
    private(set) var uses: [Int]
    /// Indices into the nodes that read each value.
    private(set) var readers: [[Int]]

    /// - Parameter outputs: values that are wanted whole.
    init(_ tape: Tape, _ nodes: [Node], outputs: [Int]) throws {
        ranges = Array(repeating: nil, count: tape.shapes.count)
        uses = Array(repeating: 0, count: tape.shapes.count)
        readers = Array(repeating: [], count: tape.shapes.count)
        for output in outputs {
            ranges[output] = 0..<Self.count(tape, output)
            uses[output] += 1
        }
        for index in nodes.indices.reversed() {
            let node = nodes[index]
            guard let wanted = ranges[node.output] else { continue }
            let inputs = try Self.wanted(node, tape, wanted)
            for (input, range) in zip(node.inputs, inputs) {
                ranges[input] = ranges[input].map { min($0.lowerBound, range.lowerBound)..<max($0.upperBound, range.upperBound) } ?? range
                uses[input] += 1
                readers[input].append(index)
            }
        }
    }

    static func count(_ tape: Tape, _ value: Int) -> Int { tape.shapes[value].reduce(1, *) }

    /// Rows of `width` that cover the elements, as elements.
    static func rows(_ range: Range<Int>, width: Int) -> Range<Int> { range.lowerBound / width..<(range.upperBound + width - 1) / width }

    /// Wanted elements of the inputs of a node.
    private static func wanted(_ node: Node, _ tape: Tape, _ output: Range<Int>) throws -> [Range<Int>] {
        let width = node.shape.last ?? 1
        let rows = rows(output, width: width)
        func whole(_ position: Int) -> Range<Int> { 0..<count(tape, node.inputs[position]) }
        func elements(_ rows: Range<Int>, _ width: Int) -> Range<Int> { rows.lowerBound * width..<rows.upperBound * width }
        switch node.operation {
        case .linear:
            let inputs = count(tape, node.inputs[1]) / width
            return [elements(rows, inputs)] + node.inputs.indices.dropFirst().map(whole)
        case .layerNorm: return [elements(rows, width), whole(1), whole(2)]
        case .l2Normalize: return [elements(rows, width)]
        case .unary: return [output]
        case .residual, .addBroadcast: return [output, output]
        case .prependToken:
            // Row 0 is the token.
            let tokens = max(rows.lowerBound, 1) - 1..<max(rows.upperBound, 1) - 1
            return [elements(tokens, width), whole(1)]
        case .gatherRows(let index):
            let rows = index[rows].map(Int.init)
            return [elements((rows.min() ?? 0)..<(rows.max() ?? -1) + 1, width)]
        case .permuteTokens(let index):
            let rows = index[rows].map(Int.init)
            return [elements((rows.min() ?? 0)..<(rows.max() ?? -1) + 1, width)]
        case .unfold, .attention, .depthwiseConv, .meanTokens, .resamplePositions, .transposeTokens, .pool, .groupNorm, .standardize, .scaleChannels:
            return node.inputs.indices.map(whole)
        case .reshape, .maskTokens, .residualOfSamples, .scaleRows, .softCrossEntropy, .prototypeCrossEntropy:
            throw RuntimeError("operation \(node.operation.kind) is not part of inference")
        }
    }
}
