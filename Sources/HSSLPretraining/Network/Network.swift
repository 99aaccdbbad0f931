import HSSLGraph
import HSSLModels

/// Sizes of one pretraining network: base, auxiliary head, projection head.
package struct NetworkSizes: Equatable, Sendable {
    package var base: ModelArchitecture
    /// Nil switches HSSL off: plain iBOT.
    package var auxiliary: Auxiliary?
    package var hidden: Int
    package var bottleneck: Int
    package var prototypes: Int
    /// Whether `prototypes.weight_g` exists (`norm_last_layer: false`).
    package var learnedGain: Bool

    package struct Auxiliary: Equatable, Sendable {
        package var depth: Int
        package var kernel: Int
        package var firstShortcut: Bool

        package init(depth: Int, kernel: Int, firstShortcut: Bool) {
            self.depth = depth
            self.kernel = kernel
            self.firstShortcut = firstShortcut
        }
    }

    package init(base: ModelArchitecture, auxiliary: Auxiliary?, hidden: Int, bottleneck: Int, prototypes: Int, learnedGain: Bool) {
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
    package let base: any BaseModel
    package let auxiliary: (any AuxiliaryHead)?
    package let head: ProjectionHead

    package init(_ sizes: NetworkSizes, pool: BufferPool) throws {
        parameters = ParameterSet()
        let scope = ParameterScope(parameters)
        base = try sizes.base.makeModel(scope("base"), pretraining: true)
        auxiliary = sizes.auxiliary.map {
            ConvNeXtHead(scope("auxiliary"), width: sizes.base.embedDim, depth: $0.depth, kernel: $0.kernel, firstShortcut: $0.firstShortcut)
        }
        head = ProjectionHead(scope("head"), width: sizes.base.embedDim, hidden: sizes.hidden, bottleneck: sizes.bottleneck,
                              prototypes: sizes.prototypes, learnedGain: sizes.learnedGain, hasAuxiliary: sizes.auxiliary != nil)
        parameters.allocate(from: pool)
    }

    /// Residual blocks over which the stochastic-depth rate rises.
    package var blocks: Int { base.depth + (auxiliary?.depth ?? 0) }

    /// Takes every value of `other`, a network of the same sizes.
    package func copy(from other: Network) {
        for parameter in parameters.all {
            guard let source = other.parameters[parameter.name] else { preconditionFailure("networks differ: \(parameter.name)") }
            parameter.values.update(from: source.values, count: parameter.count)
            parameter.valuesDidChange()
        }
    }
}
