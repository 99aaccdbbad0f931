/// Joins operations that one step computes: a product takes its activation, its residual connection and its layer scale
/// along, a group norm its residual connection and both activations, and moved tokens are added as they are moved.
enum Fusion {
    static func run(_ graph: inout PlanGraph) {
        var pass = Pass(uses: graph.uses)
        for node in graph.nodes { pass.add(node, &graph) }
        graph.nodes = pass.nodes.compactMap { $0 }
    }

    private struct Pass {
        var uses: [Int]
        /// Nil where a later node took it.
        var nodes: [PlanNode?] = []
        /// Where each value is made.
        private var makers: [Int: Int] = [:]

        init(uses: [Int]) { self.uses = uses }

        mutating func add(_ node: PlanNode, _ graph: inout PlanGraph) {
            let fused = joined(node, &graph)
            makers[fused.output] = nodes.count
            nodes.append(fused)
        }

        /// The node that makes a value which nothing else reads.
        private func onlyMaker(of value: Int) -> (index: Int, node: PlanNode)? {
            guard value < uses.count ? uses[value] == 1 : true, let index = makers[value], let node = nodes[index]
            else { return nil }
            return (index, node)
        }

        private mutating func joined(_ node: PlanNode, _ graph: inout PlanGraph) -> PlanNode {
            switch node.work {
            case .elementwise:
                if node.stage.residual == nil { return withActivation(node) }
                if let prefixed = withPositions(node, &graph) { return prefixed }
                return withResidual(node)
            case .scaleChannels(let factors): return withFactors(node, factors)
            default: return node
            }
        }

        /// `maker`, which now makes what `node` did; its memory has the same elements.
        private mutating func replacing(
            _ node: PlanNode, by maker: (index: Int, node: PlanNode), _ change: (inout PlanNode) -> Void
        ) -> PlanNode {
            var fused = maker.node
            change(&fused)
            fused.output = node.output
            nodes[maker.index] = nil
            return fused
        }

        private mutating func withActivation(_ node: PlanNode) -> PlanNode {
            guard let maker = onlyMaker(of: node.x) else { return node }
            let (activation, stage) = (node.stage.activation, maker.node.stage)
            if stage.activation == .identity, stage.residual == nil, stage.last == .identity,
                maker.node.takes(activation)
            {
                return replacing(node, by: maker) { $0.stage.activation = activation }
            }
            if stage.residual != nil, stage.last == .identity, maker.node.takesLast(activation) {
                return replacing(node, by: maker) { $0.stage.last = activation }
            }
            return node
        }

        /// x + residual, either of which may be made by a node that can add the other.
        private mutating func withResidual(_ node: PlanNode) -> PlanNode {
            guard node.stage.activation == .identity, node.stage.last == .identity, let residual = node.stage.residual
            else { return node }
            var choices: [(maker: Int, other: PlanNode.Addend)] = [(node.x, residual)]
            if let value = node.residualValue { choices.append((value, .value(node.x))) }
            for (value, other) in choices {
                guard let maker = onlyMaker(of: value), maker.node.takesResidual else { continue }
                return replacing(node, by: maker) { $0.stage.residual = other }
            }
            return node
        }

        /// gamma·(x·Wᵀ + b) = x·(gamma·W)ᵀ + gamma·b.
        private mutating func withFactors(_ node: PlanNode, _ factors: ConstantExpression) -> PlanNode {
            guard let maker = onlyMaker(of: node.x), maker.node.isPlain, var product = maker.node.product else {
                return node
            }
            product.weight = .scaledRows(product.weight, by: factors)
            product.bias = product.bias.map { .scaled($0, by: factors) }
            return replacing(node, by: maker) { $0.work = .product(product) }
        }

        /// [first, x] + positions = [first + its positions, x + the others], so that x's product can add them.
        private mutating func withPositions(_ node: PlanNode, _ graph: inout PlanGraph) -> PlanNode? {
            guard case .constant(let positions)? = node.stage.residual, node.stage.activation == .identity,
                node.stage.last == .identity,
                let maker = onlyMaker(of: node.x), case .prepend(let token) = maker.node.work
            else { return nil }
            let prefix = maker.node, first = token.count
            let sum = graph.newValue(count: graph.counts[prefix.x])
            nodes[maker.index] = nil
            add(
                PlanNode(
                    .elementwise, x: prefix.x, output: sum, prefix.inputShape, prefix.inputShape,
                    stage: .init(residual: .constant(.elements(positions, first..<prefix.count)))), &graph)
            return PlanNode(
                .prepend(token: .sum(token, .elements(positions, 0..<first))), x: sum, output: node.output,
                prefix.inputShape, prefix.shape)
        }
    }
}

extension PlanNode {
    fileprivate func takes(_ activation: Activation) -> Bool {
        switch work {
        case .product: activation == .gelu
        case .groupNorm, .elementwise: true
        default: false
        }
    }

    fileprivate func takesLast(_ activation: Activation) -> Bool {
        switch work {
        case .groupNorm, .elementwise: true
        default: false
        }
    }

    fileprivate var takesResidual: Bool {
        guard stage.residual == nil, stage.last == .identity else { return false }
        switch work {
        case .product, .groupNorm, .permute: return true
        default: return false
        }
    }
}
