import CSupport
import HSSLGraph
import XCTest

@testable import HSSLGradients

/// One use of an operation, with a plain float64 definition of the same function.
///
/// The definition is the oracle twice: of the forward values, and by central differences of every rule. Differences of
/// a float64 function with step 1e-5 are good to 1e-9, so that the tolerance below measures the float32 kernels alone.
struct GradientCase {
    let kind: HSSLGraph.Operation.Kind
    let name: String
    /// Shapes of the operands, each a parameter.
    let operands: [[Int]]
    /// The operation on a tape.
    let apply: (Tape, [Tensor]) -> Tensor
    /// The same function of the operands' elements.
    let reference: ([[Double]]) -> [Double]
    /// Largest error, of the largest magnitude of the tensor.
    var tolerance = 1e-5
    /// Operands that get no gradient by definition.
    var constantOperands: Set<Int> = []
}

/// Standard normal values, the same for the same seed.
func randomValues(_ count: Int, _ seed: UInt64...) -> [Double] {
    var random = CounterRandom(seed: CounterRandom.combine(seed), stream: 0x5445_5354)
    return (0..<count).map { _ in Double(random.normal()) }
}

extension GradientCase {
    func values(seed: UInt64) -> [[Double]] {
        operands.enumerated().map { randomValues($1.reduce(1, *), seed, UInt64($0)) }
    }

    /// Central differences of Σ c·y for every operand.
    func differences(_ values: [[Double]], coefficients: [Double]) -> [[Double]] {
        func loss(_ values: [[Double]]) -> Double {
            zip(reference(values), coefficients).reduce(0) { $0 + $1.0 * $1.1 }
        }
        let step = 1e-5
        var moved = values
        return values.indices.map { operand in
            values[operand].indices.map { i in
                if constantOperands.contains(operand) { return 0 }
                let original = values[operand][i]
                moved[operand][i] = original + step
                let above = loss(moved)
                moved[operand][i] = original - step
                let below = loss(moved)
                moved[operand][i] = original
                return (above - below) / (2 * step)
            }
        }
    }

    /// What the project's own forward and backward give.
    struct Result {
        let output: [Float]
        /// nil: no gradient was computed.
        let gradients: [[Float]?]
        let kinds: Set<HSSLGraph.Operation.Kind>
    }

    func run(
        _ values: [[Double]], coefficients: [Double], frozen: Set<Int> = [], precision: Precision = .float32
    ) -> Result {
        let pool = BufferPool()
        let parameters = zip(operands, values).enumerated().map { place, operand in
            let parameter = Parameter(name: "operand\(place)", shape: operand.0, initializer: .zeros)
            parameter.allocate(from: pool)
            for (i, value) in operand.1.enumerated() { parameter.values[i] = Float(value) }
            parameter.requiresGradient = !frozen.contains(place)
            return parameter
        }
        let tape = Tape(mode: .training, precision: precision, pool: pool)
        let output = apply(tape, parameters.map { tape.parameter($0) })
        let kinds = Set(tape.nodes.map(\.operation.kind))
        // Σ c·y as a product with a constant, so that the seed of every element is c.
        let weight = tape.constant(coefficients.map { Float($0) }, shape: [1, output.count])
        let loss = output.reshaped([1, output.count]).linear(weight: weight, bias: nil, role: .full)
        BackwardPass.run(from: [loss])
        let gradients = parameters.map { parameter in
            parameter.gradient.map { Array(UnsafeBufferPointer(start: $0, count: parameter.count)) }
        }
        return Result(output: output.array(), gradients: gradients, kinds: kinds)
    }

    static func relativeError(_ ours: [Float], _ reference: [Double]) -> Double {
        guard ours.count == reference.count else { return .infinity }
        let scale = max(reference.map(abs).max() ?? 0, 0.1)
        return zip(ours, reference).map { abs(Double($0) - $1) / scale }.reduce(0) {
            $1.isNaN ? .infinity : max($0, $1)
        }
    }
}

/// The instruction sets that this machine runs, for loops over kernel rows.
func supportedInstructionSets() -> [hssl_isa] {
    (0..<HSSL_ISA_COUNT.rawValue).map { hssl_isa($0) }.filter { hssl_isa_supported($0) }
}
