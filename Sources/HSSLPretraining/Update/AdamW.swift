import CSupport
import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// AdamW with per-tensor gradient clipping, each tensor counting its own updates.
///
/// g ← g·min(1, clip/(‖g‖ + 1e-6)); p ← p(1 − lr·wd); p ← p − lr·m̂/(√v̂ + ε). Decay applies to tensors of rank > 1 that are not biases, so `cls_token`,
/// `pos_embed` and `mask_token` decay too. Source: Loshchilov & Hutter, ICLR 2019; clipping and decay groups as DINO/iBOT.
package final class AdamW {
    package static let beta1: Float = 0.9
    package static let beta2: Float = 0.999
    package static let epsilon: Float = 1e-8

    /// Moments of one tensor.
    package final class State {
        package let firstMoment: Buffer
        package let secondMoment: Buffer
        package var step = 0

        init(count: Int, pool: BufferPool) {
            firstMoment = pool.zeros(count)
            secondMoment = pool.zeros(count)
        }
    }

    package let parameters: [Parameter]
    package private(set) var states: [State]

    package init(parameters: ParameterSet, pool: BufferPool) {
        self.parameters = parameters.all
        states = parameters.all.map { State(count: $0.count, pool: pool) }
    }

    /// L2 norm of each tensor's gradient (nil: none was computed).
    package func gradientNorms() -> [Double?] {
        parameters.map { parameter in parameter.gradient.map { hssl_sum_squares(parameter.count, $0).squareRoot() } }
    }

    /// One update.
    ///
    /// - Parameters:
    ///   - norms: from `gradientNorms`, all finite.
    ///   - clip: largest norm of one tensor's gradient; 0 does not clip.
    ///   - frozen: names that are left alone entirely: no decay, no moment, no count.
    package func update(norms: [Double?], learningRate: Float, weightDecay: Float, clip: Float, frozen: Set<String>) {
        for (index, parameter) in parameters.enumerated() {
            guard let gradient = parameter.gradient, let norm = norms[index], !frozen.contains(parameter.name) else { continue }
            let state = states[index]
            state.step += 1
            let scale = clip > 0 ? Float(min(1, Double(clip) / (norm + 1e-6))) : 1
            hssl_adamw(parameter.count, parameter.values, gradient, state.firstMoment.floats, state.secondMoment.floats, scale, learningRate,
                       Self.decays(parameter) ? weightDecay : 0, Self.beta1, Self.beta2, Self.epsilon,
                       Self.correction(Self.beta1, step: state.step), Self.correction(Self.beta2, step: state.step))
            parameter.valuesDidChange()
        }
    }

    package static func decays(_ parameter: Parameter) -> Bool { parameter.shape.count > 1 && !parameter.name.hasSuffix(".bias") }

    /// 1 − βⁿ.
    private static func correction(_ beta: Float, step: Int) -> Float {
        let power = pow(Double(beta), Double(step))
        return Float(1 - power)
    }
}

extension Network {
    /// teacher ← momentum·teacher + (1 − momentum)·student, every tensor, in float32: the updates would vanish in fp16.
    package func follow(_ student: Network, momentum: Float) {
        for parameter in parameters.all {
            guard let source = student.parameters[parameter.name] else { preconditionFailure("networks differ: \(parameter.name)") }
            hssl_ema(parameter.count, parameter.values, source.values, momentum)
            parameter.valuesDidChange()
        }
    }
}
