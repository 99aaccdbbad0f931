import CSupport
import HSSLGraph

/// Turns the record of a model for one image into steps. It knows no model: passes rewrite the recorded operations
/// (`PlanGraph`) until every one of them is one step.
enum Lowering {
    /// Steps with their arena.
    struct Result {
        let steps: [PlanStep]
        /// Bytes of each storage.
        let sizes: [Int]
        let arena: ArenaLayout
        /// Scratch of one thread.
        let workspaceBytes: Int
    }

    /// - Parameters:
    ///   - outputs: values and where each goes in the row of features, in elements.
    ///   - constants: receives what the steps read besides the image.
    /// - Throws: `RuntimeError`, naming what a plan cannot do.
    static func lower(
        _ tape: Tape, outputs: [(value: Tensor, offset: Int)], precision: Precision, constants: inout ConstantTable
    ) throws -> Result {
        var graph = try PlanGraph(tape, outputs: outputs)
        Fusion.run(&graph)
        var ranges = Demand(&graph).ranges
        splitQueries(&graph)
        let representations = Representations(&graph, &ranges, precision: precision)

        var emission = Emission(graph, ranges, representations, constants)
        for node in graph.nodes { try emission.emit(node) }
        constants = emission.constants
        var steps = emission.steps
        ArenaLayout.shareResiduals(&steps, sizes: emission.storageSizes)
        let chains = RowChains.ranges(steps)
        for chain in chains { steps[chain.lowerBound].chain = chain.count }
        let arena = ArenaLayout(sizes: emission.storageSizes, steps: steps, chains: chains)
        return Result(steps: steps, sizes: emission.storageSizes, arena: arena, workspaceBytes: emission.workspaceBytes)
    }

    /// Of tokens whose attention nobody wants the queries are not computed: keys and values become one product, queries
    /// another.
    private static func splitQueries(_ graph: inout PlanGraph) {
        let uses = graph.uses
        for attention in graph.nodes {
            guard case .attention = attention.work, attention.range.count < attention.count, uses[attention.x] == 1,
                let index = graph.nodes.firstIndex(where: { $0.output == attention.x }),
                graph.nodes[index].isQueriesKeysAndValues,
                let product = graph.nodes[index].product
            else { continue }
            let (width, queries) = (attention.width, attention.rows)
            guard width % ProductForm.panelWidth == 0 else { continue }
            var others = graph.nodes[index], wanted = product, rest = product
            (wanted.columns, rest.columns) = (0..<width, width..<3 * width)
            others.work = .product(wanted)
            others.range = queries.lowerBound * 3 * width..<queries.upperBound * 3 * width
            graph.nodes[index].work = .product(rest)
            graph.nodes.insert(others, at: index + 1)
        }
    }
}

extension PlanNode {
    fileprivate var isQueriesKeysAndValues: Bool { product != nil && stage.residual == nil && stage.last == .identity }
}
