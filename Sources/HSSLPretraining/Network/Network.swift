import HSSLGraph
import HSSLModels

/// Sizes of one pretraining network: base and auxiliary head. (Projections are the objective's.)
package struct NetworkSizes: Equatable, Sendable {
    package var base: ModelArchitecture
    /// Nil switches HSSL off: the base learns alone.
    package var auxiliary: HeadSettings?
    /// Where the base's layer scales begin; nil: the family's own.
    package var layerScale: Float?

    package init(base: ModelArchitecture, auxiliary: HeadSettings?) { (self.base, self.auxiliary) = (base, auxiliary) }
}

/// A student or a teacher: `base`, `auxiliary` and, declared by the objective, `head`; parameters are named as in a
/// checkpoint.
package struct Network {
    package let parameters: ParameterSet
    package let base: any Base
    package let auxiliary: AuxiliaryHead?
    private let layerScale: Float?

    /// Declares parameters; they get their memory (`parameters.allocate`) when the objective has declared its own.
    ///
    /// - Throws: `ModelError` for a head that makes no sense on this base.
    package init(_ sizes: NetworkSizes) throws {
        parameters = ParameterSet()
        let scope = ParameterScope(parameters), side = sizes.base.imageSize
        let base = sizes.base.makeBase(scope("base"), .pretraining)
        let shape = GridShape(grid: base.grid(height: side, width: side), width: base.width)
        auxiliary = try sizes.auxiliary.map { try AuxiliaryHead(scope("auxiliary"), over: shape, $0) }
        (self.base, layerScale) = (base, sizes.layerScale)
    }

    /// Draws every parameter.
    package func initialize(seed: UInt64) {
        parameters.initialize(seed: seed)
        guard let layerScale else { return }
        for parameter in Self.layerScales(parameters) {
            parameter.values.update(repeating: layerScale, count: parameter.count)
            parameter.valuesDidChange()
        }
    }

    /// What residual branches of the base are multiplied by, channel by channel.
    static func layerScales(_ parameters: ParameterSet) -> [Parameter] {
        parameters.all.filter { $0.name.hasPrefix("base.") && $0.name.hasSuffix(".gamma") }
    }

    /// Residual blocks over which the stochastic-depth rate rises.
    package var blocks: Int { base.blocks + (auxiliary?.depth ?? 0) }

    /// Takes the values of `other`, which has every parameter of this network.
    package func copy(from other: Network) { parameters.copy(from: other.parameters) }
}

extension ParameterSet {
    /// Takes the values of `other`, which has every parameter of this set.
    func copy(from other: ParameterSet) {
        for parameter in all {
            guard let source = other[parameter.name] else { preconditionFailure("networks differ: \(parameter.name)") }
            parameter.values.update(from: source.values, count: parameter.count)
            parameter.valuesDidChange()
        }
    }
}
