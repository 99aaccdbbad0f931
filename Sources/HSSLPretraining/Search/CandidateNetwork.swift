import HSSLGraph
import HSSLModels

/// A candidate's student or teacher: its head and what is projected.
struct CandidateNetwork {
    let parameters = ParameterSet()
    /// Nil: the base's own global feature stands for the head's.
    let head: AuxiliaryHead?
    let mlp: ProjectionHead.MLP
    let prototypes: ProjectionHead.Prototypes
    /// Of the base's global feature; the student's alone.
    let probe: ProjectionHead.MLP?

    /// Declares parameters under a checkpoint's names.
    ///
    /// - Throws: `ModelError` for a head that makes no sense over this grid.
    init(_ settings: HeadSettings?, over shape: GridShape, _ shared: CandidateSettings, isStudent: Bool) throws {
        let scope = ParameterScope(parameters)
        func mlp(_ scope: ParameterScope, width: Int) -> ProjectionHead.MLP {
            .init(scope, width: width, hidden: shared.hidden, bottleneck: shared.bottleneck)
        }
        head = try settings.map { try AuxiliaryHead(scope("auxiliary"), over: shape, $0) }
        self.mlp = mlp(scope("head")("auxiliary_mlp"), width: head?.width ?? shape.width)
        prototypes = ProjectionHead.Prototypes(
            scope("head")("prototypes"), width: shared.bottleneck, count: shared.prototypes,
            learnedGain: shared.learnedGain)
        probe = isStudent ? mlp(scope("probe"), width: shape.width) : nil
    }

    /// The head's global feature [B, width].
    func global(_ base: DetachedBase, _ pass: Pass) -> Tensor { head?.global(base.cells, pass) ?? base.global }
}

/// Student and teacher of a candidate as they are declared, without memory yet.
struct CandidatePair {
    let name: String
    let student, teacher: CandidateNetwork
    let cost: HeadCost

    /// - Parameter head: nil: the base's own feature in its place, as a measure for the others.
    /// - Throws: `ModelError` for a head that makes no sense over this base.
    init(_ name: String, head: HeadSettings?, over base: Network, grid: Grid, _ shared: CandidateSettings) throws {
        let shape = GridShape(grid: grid, width: base.base.width)
        self.name = name
        student = try CandidateNetwork(head, over: shape, shared, isStudent: true)
        teacher = try CandidateNetwork(head, over: shape, shared, isStudent: false)
        cost = try HeadCost(head, over: shape)
    }
}

/// What a base made of some images, on another tape.
struct DetachedBase {
    /// Before the final norm [B, h, w, D].
    let cells: Tensor
    /// After it [B, D].
    let global: Tensor

    /// - Parameter leaves: where gradients go; nil: nowhere.
    init(_ seen: SeenBase, on tape: Tape, leaves: BaseLeaves? = nil) {
        let tokens = leaves.map { tape.parameter($0.tokens) } ?? seen.output.tokens.detached(on: tape)
        cells = BaseOutput(tokens: tokens, prefix: seen.output.prefix, grid: seen.output.grid).cells
        global = leaves.map { tape.parameter($0.global) } ?? seen.global.detached(on: tape)
    }
}

/// Tokens and global features of a base as leaves, whose gradients the base goes on with.
struct BaseLeaves {
    let tokens: Parameter
    let global: Parameter

    init(_ seen: SeenBase, pool: BufferPool) {
        func leaf(_ name: String, _ tensor: Tensor) -> Parameter {
            let leaf = Parameter(name: name, shape: tensor.shape, initializer: .zeros)
            leaf.allocate(from: pool)
            leaf.values.update(from: tensor.values, count: tensor.count)
            return leaf
        }
        (tokens, global) = (leaf("tokens", seen.output.tokens), leaf("global", seen.global))
    }

    /// What was summed so far, times `scale`.
    func gradient(scale: Float, pool: BufferPool) -> ObservedGradient {
        func scaled(_ leaf: Parameter) -> Buffer {
            let result = pool.zeros(leaf.count)
            if let gradient = leaf.gradient { for i in 0..<leaf.count { result.floats[i] = scale * gradient[i] } }
            return result
        }
        return ObservedGradient(tokens: scaled(tokens), global: scaled(global))
    }
}
