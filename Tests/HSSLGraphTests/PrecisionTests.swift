import CSupport
import HSSLGraph
import XCTest

@testable import HSSLGradients

/// The precision policy of matrix products: error bounds of the forward pass, and what the backward pass keeps of the
/// gradient.
final class PrecisionTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    private let (rows, inputs, outputs) = (33, 70, 45)

    /// One linear layer with loss Σ c·y.
    private struct Layer {
        let output: [Float]
        let inputGradient: [Float]
        let weightGradient: [Float]
        let biasGradient: [Float]
    }

    private lazy var x = randomValues(rows * inputs, 1).map { Float($0) }
    private lazy var weight = randomValues(outputs * inputs, 2).map { Float($0) * 0.05 }
    private lazy var coefficients = randomValues(rows * outputs, 3).map { Float($0) }

    private func run(
        _ precision: Precision, role: MatrixRole = .policy, activation: HSSLGraph.Operation.Activation = .none,
        key: UInt64 = 0
    ) throws -> Layer {
        let pool = BufferPool()
        let parameters = [
            ("x", [rows, inputs], x), ("weight", [outputs, inputs], weight),
            ("bias", [outputs], [Float](repeating: 0.1, count: outputs))]
            .map { name, shape, values in
                let parameter = Parameter(name: name, shape: shape, initializer: .zeros)
                parameter.allocate(from: pool)
                parameter.values.update(from: values, count: values.count)
                return parameter
            }
        let tape = Tape(mode: .training, precision: precision, pool: pool, roundingKey: key)
        let y = tape.parameter(parameters[0]).linear(
            weight: tape.parameter(parameters[1]), bias: tape.parameter(parameters[2]), activation: activation,
            role: role)
        let loss = y.reshaped([1, y.count]).linear(
            weight: tape.constant(coefficients, shape: [1, y.count]), bias: nil, role: .full)
        BackwardPass.run(from: [loss])
        let gradients = try parameters.map {
            Array(UnsafeBufferPointer(start: try XCTUnwrap($0.gradient), count: $0.count))
        }
        return Layer(
            output: y.array(), inputGradient: gradients[0], weightGradient: gradients[1], biasGradient: gradients[2])
    }

    func testFullRoleIsExactUnderAnyPolicy() throws {
        let exact = try run(.float32)
        for precision in Precision.allCases {
            let layer = try run(precision, role: .full)
            XCTAssertEqual(layer.output, exact.output, "\(precision)")
            XCTAssertEqual(layer.inputGradient, exact.inputGradient, "\(precision)")
            XCTAssertEqual(layer.weightGradient, exact.weightGradient, "\(precision)")
            XCTAssertEqual(layer.biasGradient, exact.biasGradient, "\(precision)")
        }
        XCTAssertNotEqual(try run(.float16).output, exact.output, "the policy has an effect")
        XCTAssertNotEqual(try run(.int8).output, exact.output, "the policy has an effect")
    }

    /// A weight that an operation made (a standardised convolution) follows the policy as a parameter of the same
    /// values does; the full role keeps it exact.
    func testComputedWeightsFollowThePolicy() {
        for precision in Precision.allCases {
            let tape = Tape(mode: .inference, precision: precision, pool: BufferPool())
            let input = tape.constant(x, shape: [rows, inputs])
            let computed = tape.constant(weight, shape: [outputs, inputs]).l2Normalized()
            let plain = tape.constant(computed.array(), shape: [outputs, inputs])
            XCTAssertEqual(
                input.linear(weight: computed, bias: nil).array(), input.linear(weight: plain, bias: nil).array(),
                "\(precision)")
            let exact = Tape(mode: .inference, pool: BufferPool())
            let reference = exact.constant(x, shape: [rows, inputs]).linear(
                weight: exact.constant(computed.array(), shape: [outputs, inputs]), bias: nil)
            XCTAssertEqual(
                input.linear(weight: computed, bias: nil, role: .full).array(), reference.array(), "\(precision)")
            XCTAssertEqual(
                input.linear(weight: computed, bias: nil).array() == reference.array(), precision == .float32)
        }
    }

    /// Rounding each operand once bounds the error of each element; int8: half a code of x against |w|,
    /// of w against |x|, and of both.
    func testForwardErrorsStayWithinTheRoundingOfTheOperands() throws {
        let exact = try run(.float32).output, half = try run(.float16).output, int8 = try run(.int8).output
        func largest(_ values: ArraySlice<Float>) -> Double { values.reduce(0) { max($0, Double(abs($1))) } }
        var squares = 0.0, squaresOfError = 0.0
        for r in 0..<rows {
            let row = x[r * inputs..<(r + 1) * inputs]
            for n in 0..<outputs {
                let column = weight[n * inputs..<(n + 1) * inputs]
                let products = zip(row, column).reduce(0.0) { $0 + Double(abs($1.0 * $1.1)) }
                let slack = 1e-6 * products + 1e-6
                let place = r * outputs + n
                XCTAssertLessThanOrEqual(Double(abs(half[place] - exact[place])), 0x1p-11 * products + slack)
                let (halfX, halfW) = (largest(row) / 254, largest(column) / 254)
                let bound =
                    row.reduce(0) { $0 + Double(abs($1)) } * halfW + column.reduce(0) { $0 + Double(abs($1)) } * halfX
                    + Double(inputs) * halfX * halfW
                XCTAssertLessThanOrEqual(Double(abs(int8[place] - exact[place])), bound + slack)
                squares += Double(exact[place]) * Double(exact[place])
                squaresOfError += Double(int8[place] - exact[place]) * Double(int8[place] - exact[place])
            }
        }
        // Two uniform errors of a code whose width is max|x|/127 ≈ 2.4σ/127: 0.55 % each, 0.8 % together.
        XCTAssertLessThanOrEqual((squaresOfError / squares).squareRoot(), 0.012)
    }

    func testWeightGradientsStayCloseToFloat32() throws {
        for activation in [HSSLGraph.Operation.Activation.none, .gelu] {
            let exact = try run(.float32, activation: activation)
            for precision in [Precision.float16, .int8] {
                let layer = try run(precision, activation: activation)
                XCTAssertGreaterThanOrEqual(
                    cosine(layer.weightGradient, exact.weightGradient), precision == .float16 ? 0.999_999 : 0.999,
                    "\(precision)")
                XCTAssertGreaterThanOrEqual(
                    cosine(layer.biasGradient, exact.biasGradient), precision == .float16 ? 0.999_999 : 0.999,
                    "\(precision)")
                XCTAssertGreaterThanOrEqual(
                    cosine(layer.inputGradient, exact.inputGradient), precision == .float16 ? 0.999_999 : 0.999,
                    "\(precision)")
            }
        }
    }

    /// The mean over many rounding keys is the product with the weight that the forward pass used: stochastic rounding
    /// adds noise, no bias.
    func testStochasticRoundingIsUnbiased() throws {
        var codes = [Int8](repeating: 0, count: weight.count)
        var scale = [Float](repeating: 0, count: outputs)
        var dequantized = [Float](repeating: 0, count: weight.count)
        hssl_quantize_rows_s8(outputs, inputs, weight, inputs, &codes, inputs, &scale)
        hssl_dequantize_rows_s8(outputs, inputs, codes, inputs, scale, &dequantized, inputs)
        let keys = 256
        var sum = [Double](repeating: 0, count: x.count), sumOfSquares = sum
        for key in 0..<keys {
            for (i, value) in try run(.int8, key: UInt64(key)).inputGradient.enumerated() {
                sum[i] += Double(value)
                sumOfSquares[i] += Double(value) * Double(value)
            }
        }
        var chi = 0.0
        for r in 0..<rows {
            for k in 0..<inputs {
                let expected = (0..<outputs).reduce(0.0) {
                    $0 + Double(coefficients[r * outputs + $1]) * Double(dequantized[$1 * inputs + k])
                }
                let place = r * inputs + k
                let mean = sum[place] / Double(keys)
                let variance = max(sumOfSquares[place] / Double(keys) - mean * mean, 1e-14)
                let deviation = (mean - expected) / (variance / Double(keys)).squareRoot()
                XCTAssertLessThanOrEqual(abs(deviation), 6, "element \(place)")
                chi += deviation * deviation
            }
        }
        // The mean square of 2310 nearly standard normal deviations; a bias of a tenth of a code would make it 10 and
        // more.
        XCTAssertEqual(chi / Double(x.count), 1, accuracy: 0.2)
        XCTAssertNotEqual(try run(.int8, key: 1).inputGradient, try run(.int8, key: 2).inputGradient)
        XCTAssertEqual(try run(.int8, key: 1).inputGradient, try run(.int8, key: 1).inputGradient)
    }

    /// Packed weights follow the values once told of the change.
    func testPackedWeightsFollowTheValues() throws {
        let pool = BufferPool()
        let parameter = Parameter(name: "w", shape: [outputs, inputs], initializer: .zeros)
        parameter.allocate(from: pool)
        for precision in Precision.allCases {
            for scale in [Float(1), -2] {
                for i in weight.indices { parameter.values[i] = scale * weight[i] }
                parameter.valuesDidChange()
                let tape = Tape(mode: .inference, precision: precision, pool: pool)
                let y =
                    tape.constant(x, shape: [rows, inputs]).linear(weight: tape.parameter(parameter), bias: nil).array()
                let exact = try run(.float32).output.map { scale * ($0 - 0.1) }
                XCTAssertGreaterThanOrEqual(cosine(y, exact), 0.9998, "\(precision) times \(scale)")
            }
        }
    }

    private func cosine(_ a: [Float], _ b: [Float]) -> Double {
        func dot(_ a: [Float], _ b: [Float]) -> Double { zip(a, b).reduce(0.0) { $0 + Double($1.0) * Double($1.1) } }
        return dot(a, b) / (dot(a, a) * dot(b, b)).squareRoot()
    }
}
