import HSSLGraph

/// A deployed model recorded once for one image, shapes only: what model files, the runtime and export read.
package struct ModelTrace {
    package let architecture: ModelArchitecture
    /// Declared, without memory.
    package let parameters: ParameterSet
    package let tape: Tape
    /// images [1, C, H, W].
    package let images: Tensor
    /// The image's vector after the final norm [1, D].
    package let global: Tensor
    /// A vector a cell of the last grid, after the final norm [N, D].
    package let local: Tensor

    package init(_ architecture: ModelArchitecture) {
        self.architecture = architecture
        parameters = ParameterSet()
        let base = architecture.makeBase(ParameterScope(parameters), .deployment)
        tape = Tape(mode: .shapes, pool: BufferPool())
        images = tape.input(shape: [1, architecture.channels, architecture.imageSize, architecture.imageSize])
        let output = base(images, mask: nil, Pass())
        global = base.global(output)
        local = base.local(output, cells: nil)
    }

    /// Names of the weights that follow the precision policy: every use is as the weight of a product with
    /// `MatrixRole.policy`, as they are or with their elements in another order.
    package var policyWeights: Set<String> {
        var policy: Set<String> = []
        var others: Set<String> = []
        var rearranged: [Int: Parameter] = [:]
        func parameter(_ value: Int) -> Parameter? { tape.parameter(of: value) ?? rearranged[value] }
        for node in tape.nodes {
            for (position, input) in node.inputs.enumerated() {
                guard let parameter = parameter(input) else { continue }
                switch node.operation {
                case .linear(_, _, .policy) where position == 1: policy.insert(parameter.name)
                // A convolution's weight, in the order of its windows. What becomes of it decides; rows stay rows.
                case .reshape where node.shape[0] == parameter.shape[0]: rearranged[node.output] = parameter
                case .transposeTokens where node.shape[0] == parameter.shape[0]
                     && parameter.shape.count == 4: rearranged[node.output] = parameter
                default: others.insert(parameter.name)
                }
            }
        }
        return policy.subtracting(others)
    }
}
