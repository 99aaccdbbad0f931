import HSSLGraph

/// A deployed model recorded once for one image, shapes only: what model files, the runtime and export read.
package struct ModelTrace {
    package let architecture: ModelArchitecture
    /// Declared, without memory.
    package let parameters: ParameterSet
    package let tape: Tape
    /// images [1, C, H, W].
    package let images: Tensor
    /// Tokens after the final norm [1, 1+N, D], CLS first.
    package let tokens: Tensor

    /// - Throws: `ModelError` for an unknown family.
    package init(_ architecture: ModelArchitecture) throws {
        self.architecture = architecture
        parameters = ParameterSet()
        let model = try architecture.makeModel(ParameterScope(parameters), pretraining: false)
        tape = Tape(mode: .shapes, pool: BufferPool())
        images = tape.input(shape: [1, architecture.channels, architecture.imageSize, architecture.imageSize])
        tokens = model.norm(model.tokens(images, mask: nil, stochasticDepth: nil))
    }

    /// Names of the weights that follow the precision policy: every use is as the weight of a product with `MatrixRole.policy`.
    package var policyWeights: Set<String> {
        var policy: Set<String> = []
        var others: Set<String> = []
        for node in tape.nodes {
            for (position, input) in node.inputs.enumerated() {
                guard let parameter = tape.parameter(of: input) else { continue }
                if case .linear(_, _, .policy) = node.operation, position == 1 {
                    policy.insert(parameter.name)
                } else {
                    others.insert(parameter.name)
                }
            }
        }
        return policy.subtracting(others)
    }
}
