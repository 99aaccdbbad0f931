import CSupport
import HSSLGraph
import HSSLModels

/// Unsigned 8-bit codes of a tensor: value ≈ (code − zeroPoint)·scale.
struct CodeRange: Equatable {
    let scale: Float
    let zeroPoint: UInt8

    /// Codes that cover least … most, and zero.
    init(least: Float, most: Float) {
        let (least, most) = (min(least, 0), max(most, 0))
        // The whole span may overflow where its ends do not.
        let span = (most - least).isFinite ? (most - least) / 255 : most / 255 - least / 255
        scale = most > least ? max(span, .leastNormalMagnitude) : 1
        zeroPoint = UInt8(min(max((-least / scale).rounded(), 0), 255))
    }

    /// The value after a way through codes.
    func rounded(_ value: Float) -> Float {
        let zero = Float(zeroPoint)
        return (min(max((value / scale).rounded(.toNearestOrEven) + zero, 0), 255) - zero) * scale
    }
}

/// Signed 8-bit codes of a weight [N, K] in ±127, a scale a row.
struct WeightCodes {
    var codes: [Int8]
    var scales: [Float]

    init(_ weight: [Float], outputs: Int) {
        let inputs = weight.count / outputs
        codes = [Int8](repeating: 0, count: weight.count)
        scales = [Float](repeating: 0, count: outputs)
        hssl_quantize_rows_s8(outputs, inputs, weight, inputs, &codes, inputs, &scales)
        // A row of zeros has no scale; a reader may divide by it.
        for row in scales.indices where scales[row] == 0 { scales[row] = 1 }
    }

    /// The weight that the codes stand for.
    var values: [Float] {
        let inputs = codes.count / scales.count
        return [Float](unsafeUninitializedCapacity: codes.count) { values, count in
            if let base = values.baseAddress {
                hssl_dequantize_rows_s8(scales.count, inputs, codes, inputs, scales, base, inputs)
            }
            count = codes.count
        }
    }
}

/// Which products of a record multiply codes, and the codes of what they read and make.
struct StaticQuantization {
    /// Outputs of the linear nodes.
    var products: Set<Int>
    /// By value: what products read, and what integer convolutions give.
    var ranges: [Int: CodeRange]
}

extension GraphBuilder {
    /// x through 8-bit codes: QuantizeLinear, DequantizeLinear.
    mutating func rounded(_ x: String, _ codes: CodeRange, _ label: String) -> String {
        let scale = floats([codes.scale], shape: [], "\(label).scale")
        let zero = constant([codes.zeroPoint], .uint8, shape: [], "\(label).zero_point")
        let quantized = add("QuantizeLinear", [x, scale, zero], label)
        return add("DequantizeLinear", [quantized, scale, zero], label)
    }

    /// A weight from its codes, a scale for every place along `axis`.
    mutating func dequantized(
        _ codes: [Int8], _ scales: [Float], axis: Int, shape: [Int], _ name: String
    ) -> String {
        let stored = constant(codes, .int8, shape: shape, name)
        let scale = floats(scales, shape: [scales.count], "\(name)_scale")
        let none = [Int8](repeating: 0, count: scales.count)
        let zeros = constant(none, .int8, shape: [scales.count], "\(name)_zero_point")
        return add("DequantizeLinear", [stored, scale, zeros], name, [.int("axis", axis)])
    }

    /// A bias as the sums of an integer convolution count it.
    mutating func dequantized(bias: [Float], _ scales: [Float], _ name: String) -> String {
        let counts = zip(bias, scales).map { value, scale in
            Int32(min(max((value / scale).rounded(), -2e9), 2e9))
        }
        let stored = constant(counts, .int32, shape: [counts.count], name)
        let scale = floats(scales, shape: [scales.count], "\(name)_scale")
        let none = [Int32](repeating: 0, count: counts.count)
        let zeros = constant(none, .int32, shape: [counts.count], "\(name)_zero_point")
        return add("DequantizeLinear", [stored, scale, zeros], name, [.int("axis", 0)])
    }
}
