import HSSLGraph
import HSSLModels

/// Sizes of one pretraining network: base, auxiliary head, projection head.
package struct NetworkSizes: Equatable, Sendable {
    package var base: ModelArchitecture
    /// Nil switches HSSL off: the base learns alone.
    package var auxiliary: HeadSettings?
    package var hidden: Int
    package var bottleneck: Int
    package var prototypes: Int
    /// Whether `prototypes.weight_g` exists (`norm_last_layer: false`).
    package var learnedGain: Bool

    package init(base: ModelArchitecture, auxiliary: HeadSettings?, hidden: Int, bottleneck: Int, prototypes: Int, learnedGain: Bool) {
        self.base = base
        self.auxiliary = auxiliary
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.prototypes = prototypes
        self.learnedGain = learnedGain
    }
}

/// A student or a teacher: `base`, `auxiliary` and `head`, their parameters named as in a checkpoint.
package struct Network {
    package let parameters: ParameterSet
    package let base: any Base
    package let auxiliary: AuxiliaryHead?
    package let head: ProjectionHead

    /// - Throws: `ModelError` for a head that makes no sense on this base.
    package init(_ sizes: NetworkSizes, pool: BufferPool) throws {
        parameters = ParameterSet()
        let scope = ParameterScope(parameters)
        let base = sizes.base.makeBase(scope("base"), .pretraining)
        let shape = GridShape(grid: base.grid(height: sizes.base.imageSize, width: sizes.base.imageSize), width: base.width)
        let auxiliary = try sizes.auxiliary.map { try AuxiliaryHead(scope("auxiliary"), over: shape, $0) }
        head = ProjectionHead(scope("head"), baseWidth: base.width, auxiliaryWidth: auxiliary?.width, hidden: sizes.hidden, bottleneck: sizes.bottleneck,
                              prototypes: sizes.prototypes, learnedGain: sizes.learnedGain)
        (self.base, self.auxiliary) = (base, auxiliary)
        parameters.allocate(from: pool)
    }

    /// Residual blocks over which the stochastic-depth rate rises.
    package var blocks: Int { base.blocks + (auxiliary?.depth ?? 0) }

    /// Takes every value of `other`, a network of the same sizes.
    package func copy(from other: Network) {
        for parameter in parameters.all {
            guard let source = other.parameters[parameter.name] else { preconditionFailure("networks differ: \(parameter.name)") }
            parameter.values.update(from: source.values, count: parameter.count)
            parameter.valuesDidChange()
        }
    }
}
