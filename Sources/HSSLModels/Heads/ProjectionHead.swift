import HSSLGraph

/// Two MLPs, one a stream, and one prototype layer that both share.
///
/// D → hidden → hidden → bottleneck with GELU between, L2-normalised, then K weight-normalised prototypes without bias.
/// Source: DINO's `DINOHead`, shared between CLS and patches as iBOT, between base and auxiliary as HSSL.
package struct ProjectionHead {
    package let base: MLP
    /// Nil where there is no auxiliary head.
    package let auxiliary: MLP?
    package let prototypes: Prototypes

    /// - Parameter auxiliaryWidth: channels of the auxiliary head's output; nil: there is none.
    package init(
        _ scope: ParameterScope, baseWidth: Int, auxiliaryWidth: Int?, hidden: Int, bottleneck: Int,
        prototypes count: Int, learnedGain: Bool
    ) {
        base = MLP(scope("base_mlp"), width: baseWidth, hidden: hidden, bottleneck: bottleneck)
        auxiliary = auxiliaryWidth.map {
            MLP(scope("auxiliary_mlp"), width: $0, hidden: hidden, bottleneck: bottleneck)
        }
        prototypes = Prototypes(scope("prototypes"), width: bottleneck, count: count, learnedGain: learnedGain)
    }

    package struct MLP {
        private let layers: [Linear]

        package init(_ scope: ParameterScope, width: Int, hidden: Int, bottleneck: Int) {
            // Odd indices are the GELUs, as in an nn.Sequential.
            layers = [
                Linear(scope("0"), inputs: width, outputs: hidden),
                Linear(scope("2"), inputs: hidden, outputs: hidden),
                Linear(scope("4"), inputs: hidden, outputs: bottleneck),
            ]
        }

        /// x [..., D] → unit vectors [..., bottleneck].
        package func callAsFunction(_ x: Tensor) -> Tensor {
            layers[2](layers[1](layers[0](x, activation: .gelu), activation: .gelu)).l2Normalized()
        }
    }

    /// Rows v/‖v‖ (times a learned gain where `weight_g` exists). Always float32.
    package struct Prototypes {
        package let direction: Parameter
        package let gain: Parameter?

        package init(_ scope: ParameterScope, width: Int, count: Int, learnedGain: Bool) {
            direction = scope.declare("weight_v", [count, width], .uniform(bound: 1 / Float(width).squareRoot()))
            gain = learnedGain ? scope.declare("weight_g", [count, 1], .ones) : nil
        }

        /// The effective weight [K, bottleneck], computed once a tape and used for every stream.
        package func weight(_ tape: Tape) -> Tensor {
            let unit = tape.parameter(direction).l2Normalized()
            return gain.map { unit.scaledRows(by: tape.parameter($0)) } ?? unit
        }

        package var parameters: [Parameter] { [direction] + (gain.map { [$0] } ?? []) }
    }
}
