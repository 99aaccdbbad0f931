import CSupport
import HSSLGraph
import HSSLModels

/// A value that does not depend on the image: parameters, constants of the model's record, and what operations make of
/// them when the model is loaded.
indirect enum ConstantExpression {
    case parameter(Parameter)
    /// A constant of the record, by its identity there.
    case values([Float], shape: [Int], value: Int)
    /// An operation all of whose operands are constant; `value` is its identity in the record.
    case operation(Operation, [ConstantExpression], shape: [Int], value: Int)
    case sum(ConstantExpression, ConstantExpression)
    /// The product of two vectors, element by element.
    case scaled(ConstantExpression, by: ConstantExpression)
    /// The rows of a weight, each times an element of a vector.
    case scaledRows(ConstantExpression, by: ConstantExpression)
    case elements(ConstantExpression, Range<Int>)

    /// Identity for sharing among the programs of one record.
    var key: String {
        switch self {
        case .parameter(let parameter): parameter.name
        case .values(_, _, let value), .operation(_, _, _, let value): "#\(value)"
        case .sum(let a, let b): "(\(a.key)+\(b.key))"
        case .scaled(let a, let b): "(\(a.key)*\(b.key))"
        case .scaledRows(let weight, let factors): "rows(\(weight.key)*\(factors.key))"
        case .elements(let source, let range): "\(source.key)[\(range)]"
        }
    }

    var count: Int {
        switch self {
        case .parameter(let parameter): parameter.count
        case .values(let values, _, _): values.count
        case .operation(_, _, let shape, _): shape.reduce(1, *)
        case .sum(let a, _), .scaled(let a, _), .scaledRows(let a, _): a.count
        case .elements(_, let range): range.count
        }
    }

    /// Elements of this and of all that it is made of, which may be in memory at a time while it is evaluated.
    var countOfAll: Int {
        switch self {
        case .parameter, .values: 2 * count
        case .operation(_, let inputs, _, _): count + inputs.map(\.countOfAll).reduce(0, +)
        case .sum(let a, let b), .scaled(let a, let b), .scaledRows(let a, let b): count + a.countOfAll + b.countOfAll
        case .elements(let source, _): count + source.countOfAll
        }
    }

    /// The parameter of which this has the same rows, with their elements in another order: a convolution's weight, in
    /// the order of its windows.
    var rearranged: Parameter? {
        switch self {
        case .parameter(let parameter): parameter
        case .operation(.reshape, let inputs, let shape, _):
            inputs[0].rearranged.flatMap { $0.shape[0] == shape[0] ? $0 : nil }
        case .operation(.transposeTokens, let inputs, let shape, _):
            inputs[0].rearranged.flatMap { $0.shape[0] == shape[0] ? $0 : nil }
        default: nil
        }
    }

    // MARK: Values

    /// - Parameter parameters: gives the values of a parameter.
    /// - Throws: what `parameters` throws; `RuntimeError` for an operation that inference does not have.
    func values(_ parameters: (Parameter) throws -> [Float]) throws -> [Float] {
        switch self {
        case .parameter(let parameter): return try parameters(parameter)
        case .values(let values, _, _): return values
        case .sum(let a, let b): return zip(try a.values(parameters), try b.values(parameters)).map(+)
        case .scaled(let a, let b): return zip(try a.values(parameters), try b.values(parameters)).map(*)
        case .scaledRows(let weight, let factors):
            let (factors, width) = (try factors.values(parameters), weight.count / factors.count)
            var values = try weight.values(parameters)
            for (row, factor) in factors.enumerated() {
                for i in row * width..<(row + 1) * width { values[i] *= factor }
            }
            return values
        case .elements(let source, let range): return Array(try source.values(parameters)[range])
        case .operation: return try tensor(Tape(mode: .inference, pool: BufferPool()), parameters).array()
        }
    }

    private func tensor(_ tape: Tape, _ parameters: (Parameter) throws -> [Float]) throws -> Tensor {
        switch self {
        case .parameter(let parameter): return tape.constant(try parameters(parameter), shape: parameter.shape)
        case .values(let values, let shape, _): return tape.constant(values, shape: shape)
        case .operation(let operation, let inputs, let shape, _):
            guard let result = operation.apply(to: try inputs.map { try $0.tensor(tape, parameters) }, shape: shape)
            else {
                throw RuntimeError("operation \(operation.kind) is not part of inference")
            }
            return result
        case .sum, .scaled, .scaledRows, .elements: return tape.constant(try values(parameters), shape: [count])
        }
    }
}
