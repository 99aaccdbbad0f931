import CSupport
import HSSLGraph

/// How a value is kept.
enum Representation: Equatable {
    case floats
    /// binary16, because 8-bit codes are made of it and nothing else, or a group norm takes what 8-bit codes gave.
    /// Products saturate at 65504: weights 1e5 times as large as a trained network's would lose their features.
    case halves
    /// u8 codes in rows of so many elements, a scale a row; the code `zero` is 0.
    case codes(width: Int, zero: UInt8)
}

/// Chooses what products multiply and how values between them are kept; where codes are wanted and nobody makes them, a
/// node that does is put in.
struct Representations {
    private(set) var all: [Int: Representation] = [:]

    /// GELU is never below −0.17, so that most codes are for what is above 0 (CSupport/gemm/README.md).
    static let zeroOfGELU: UInt8 = 20

    subscript(value: Int) -> Representation { all[value] ?? .floats }

    /// The code of 0 in a value's codes.
    func zero(of value: Int) -> UInt8 {
        if case .codes(_, let zero) = self[value] { zero } else { ProductForm.symmetricZero }
    }

    /// - Parameter demand: of the graph as it is; values that are put in get theirs.
    init(_ graph: inout PlanGraph, _ ranges: inout [Range<Int>?], precision: Precision) {
        for index in graph.nodes.indices {
            guard var product = graph.nodes[index].product else { continue }
            product.form = ProductForm(product.role, precision, inputs: product.inputs)
            graph.nodes[index].work = .product(product)
        }
        guard precision == .int8 else { return }
        var pass = Pass(graph)
        pass.chooseAttention()
        pass.choosePermutations()
        pass.chooseNorms()
        pass.insertQuantization(&graph, &ranges)
        Self.codeInNorms(&graph)
        all = pass.representations
        codeBeforeWindows(&graph, &ranges)
    }

    /// A group norm makes the codes of its result while a row is at hand.
    private static func codeInNorms(_ graph: inout PlanGraph) {
        var makers: [Int: Int] = [:], taken: Set<Int> = []
        let uses = graph.uses
        for (index, node) in graph.nodes.enumerated() {
            if case .groupNorm = node.work { makers[node.output] = index }
            guard case .quantize = node.work, let maker = makers[node.x], graph.nodes[maker].codes == nil,
                graph.nodes[maker].width == node.width, node.range == 0..<graph.counts[node.x]
            else { continue }
            graph.nodes[maker].codes = (node.output, alone: uses[node.x] == 1, alike: false)
            taken.insert(index)
        }
        graph.nodes = graph.nodes.enumerated().filter { !taken.contains($0.offset) }.map(\.element)
    }

    /// Windows that overlap are windows of codes: an element is coded once instead of once for each window that holds
    /// it, and a quarter of the bytes are copied. All positions then need one scale, which a group norm can tell before
    /// it makes the first element: its result grows with its input, whose extremes it meets while it adds.
    private mutating func codeBeforeWindows(_ graph: inout PlanGraph, _ ranges: inout [Range<Int>?]) {
        var makers: [Int: Int] = [:]
        let uses = graph.uses
        for (index, node) in graph.nodes.enumerated() {
            if case .groupNorm = node.work { makers[node.output] = index }
            guard case .unfold(let kernel, let stride, _, .grid) = node.work, stride < kernel,
                case .codes(_, let zero)? = all[node.output], let maker = makers[node.x], uses[node.x] == 1,
                graph.nodes[maker].codes == nil, graph.nodes[maker].stage.isFloor, graph.nodes[maker].width % 4 == 0
            else { continue }
            let width = graph.nodes[maker].width, target = graph.newValue(count: graph.counts[node.x])
            ranges.append(0..<graph.counts[node.x])
            all[target] = .codes(width: width, zero: zero)
            graph.nodes[maker].codes = (target, alone: true, alike: true)
            graph.nodes[index].x = target
        }
    }

    private struct Pass {
        var nodes: [PlanNode]
        private var readers: [Int: [Int]] = [:]
        private var makers: [Int: [Int]] = [:]
        private(set) var representations: [Int: Representation] = [:]
        private var codes: [Int: [Int: Int]] = [:]

        init(_ graph: PlanGraph) {
            nodes = graph.nodes
            for (index, node) in nodes.enumerated() {
                for value in node.values { readers[value, default: []].append(index) }
                makers[node.output, default: []].append(index)
            }
        }

        /// The width of the rows of codes that all readers of a value want; nil where one of them wants anything else.
        private func codesOnly(_ value: Int) -> Int? {
            let widths = (readers[value] ?? []).map { codesWidth($0, value) }
            guard let first = widths.first, widths.allSatisfy({ $0 != nil && $0 == first }) else { return nil }
            return first
        }

        private func codesWidth(_ reader: Int, _ value: Int) -> Int? {
            let node = nodes[reader]
            guard node.x == value, node.residualValue != value else { return nil }
            if let product = node.product { return product.form == .int8 ? product.inputs : nil }
            if case .permute(_, onCodes: true) = node.work { return node.width }
            return nil
        }

        /// Every node that makes the value is a product of codes whose output stage is without residual.
        private func isCodesProduct(_ value: Int) -> Bool {
            let makers = makers[value] ?? []
            return !makers.isEmpty
                && makers.allSatisfy { nodes[$0].product?.form == .int8 && nodes[$0].stage.residual == nil }
        }

        /// Attention over codes reads binary16 from a product of codes and gives it to one.
        mutating func chooseAttention() {
            for (index, node) in nodes.enumerated() {
                guard case .attention(let heads, nil, nil, _) = node.work, node.shape[0] == 1,
                    node.shape[1] <= Int(HSSL_ATTENTION_INTEGER_TOKENS),
                    codesOnly(node.output) != nil, readers[node.x]?.count == 1, isCodesProduct(node.x)
                else { continue }
                nodes[index].work = .attention(heads: heads, bias: nil, mask: nil, integers: true)
                representations[node.output] = .halves
                representations[node.x] = .halves
            }
        }

        /// A quarter of the bytes to move, where tokens become codes after they have moved: a row is quantised alone.
        mutating func choosePermutations() {
            for index in nodes.indices.reversed() {
                guard case .permute(let rows, _) = nodes[index].work, nodes[index].isPlain,
                    codesOnly(nodes[index].output) == nodes[index].width
                else { continue }
                nodes[index].work = .permute(rows, onCodes: true)
            }
        }

        /// A group norm that alone reads a product of codes takes it as binary16: half of the bytes of three walks.
        mutating func chooseNorms() {
            for node in nodes {
                guard case .groupNorm = node.work, readers[node.x]?.count == 1, isCodesProduct(node.x) else { continue }
                representations[node.x] = .halves
            }
        }

        mutating func insertQuantization(_ graph: inout PlanGraph, _ ranges: inout [Range<Int>?]) {
            var result: [PlanNode] = []
            for index in nodes.indices {
                var node = nodes[index]
                switch node.work {
                case .product(let product) where product.form == .int8:
                    node.x = codesOf(node.x, width: product.inputs, &graph, &ranges, &result)
                    if node.stage.residual == nil, representations[node.output] == nil, codesOnly(node.output) != nil {
                        representations[node.output] = .halves
                    }
                case .permute(_, onCodes: true):
                    node.x = codesOf(node.x, width: node.width, &graph, &ranges, &result)
                    representations[node.output] = representations[node.x]
                case .layerNorm, .unfold:
                    if codesOnly(node.output) == node.width, node.width <= Int(HSSL_PLAN_FUSED_FLOATS) {
                        representations[node.output] = .codes(width: node.width, zero: zero(for: node.output))
                    }
                default: break
                }
                result.append(node)
            }
            graph.nodes = result
        }

        /// The code of 0 in the codes of a value: what its activation cannot give gets few codes.
        private func zero(for value: Int) -> UInt8 {
            guard let makers = makers[value], !makers.isEmpty,
                makers.allSatisfy({ nodes[$0].stage.result == .gelu })
            else { return ProductForm.symmetricZero }
            return Representations.zeroOfGELU
        }

        /// The value that holds the codes of a value, made once for all that read them.
        private mutating func codesOf(
            _ value: Int, width: Int, _ graph: inout PlanGraph, _ ranges: inout [Range<Int>?],
            _ result: inout [PlanNode]
        ) -> Int {
            if case .codes? = representations[value] { return value }
            if let known = codes[value]?[width] { return known }
            let target = graph.newValue(count: graph.counts[value]),
                rows = Demand.rows(ranges[value] ?? 0..<0, width: width)
            ranges.append(rows.lowerBound * width..<rows.upperBound * width)
            var node = PlanNode(
                .quantize, x: value, output: target, [graph.counts[value] / width, width],
                [graph.counts[value] / width, width])
            node.range = rows.lowerBound * width..<rows.upperBound * width
            result.append(node)
            codes[value, default: [:]][width] = target
            representations[target] = .codes(width: width, zero: zero(for: value))
            return target
        }
    }
}
