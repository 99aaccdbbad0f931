import HSSLGraph
import HSSLModels

/// What of a record does not depend on the image: parameters, constants, and what operations make of them. It is
/// computed when the model is written.
struct Constants {
    private enum Source {
        case parameter(Parameter)
        case values([Float])
        case operation(Node)
    }

    private let shapes: [[Int]]
    private let parameters: (String) throws -> [Float]
    private var sources: [Int: Source] = [:]

    /// - Parameter parameters: the values of a parameter by name, row-major.
    init(_ tape: Tape, parameters: @escaping (String) throws -> [Float]) {
        shapes = tape.shapes
        self.parameters = parameters
        for (id, leaf) in tape.leaves {
            switch leaf {
            case .input: break
            case .parameter(let parameter): sources[id] = .parameter(parameter)
            case .constant: sources[id] = tape.constants[id].map { .values($0) }
            }
        }
        for node in tape.nodes where node.inputs.allSatisfy({ sources[$0] != nil }) {
            sources[node.output] = .operation(node)
        }
    }

    func contains(_ id: Int) -> Bool { sources[id] != nil }

    /// - Throws: what reading a parameter throws; `ModelError` for a value that depends on the image, or an operation
    ///   that only training has.
    func values(_ id: Int) throws -> [Float] {
        switch sources[id] {
        case .parameter(let parameter): return try parameters(parameter.name)
        case .values(let values): return values
        case .operation: return try tensor(id, Tape(mode: .inference, pool: BufferPool())).array()
        case nil: throw ModelError("a weight that depends on the image cannot be exported")
        }
    }

    private func tensor(_ id: Int, _ tape: Tape) throws -> Tensor {
        guard case .operation(let node)? = sources[id] else {
            return tape.constant(try values(id), shape: shapes[id])
        }
        let operands = try node.inputs.map { try tensor($0, tape) }
        guard let result = node.operation.apply(to: operands, shape: node.shape) else {
            throw ModelError("operation \(node.operation.kind) is not part of inference")
        }
        return result
    }

    /// The parameter that a value is, or is made of alone; names constants after it.
    func parameterName(_ id: Int) -> String? {
        switch sources[id] {
        case .parameter(let parameter): parameter.name
        case .operation(let node): node.inputs.lazy.compactMap { parameterName($0) }.first
        case .values, nil: nil
        }
    }
}
