import CSupport
import Foundation
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// The first step of ViT-S/16 at its own size (depth 12, 224 pixels, published head and K) under each policy, against
/// our float32.
///
/// Rounding adds up over depth, which the fixtures (depth 2) cannot show.
final class DepthPrecisionTests: XCTestCase {
    func testFirstStepOfViTSmall() throws {
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        let pool = BufferPool()
        let sizes = NetworkSizes(
            base: try ModelArchitecture(named: "vit_small", imageSize: 224, patchSize: 16),
            auxiliary: HeadSettings(family: "convnext", depth: 3))
        let student = try Network(sizes), teacher = try Network(sizes)
        let settings = IBOTSettings(PrototypeOptions(hidden: 2048, bottleneck: 256, prototypes: 8192))
        var objective = PrototypeObjective(student: student, teacher: teacher, settings, settings: .init())
        for network in [student, teacher] { network.parameters.allocate(from: pool) }
        for (place, parameter) in student.parameters.all.enumerated() { parameter.drawQuickly(key: UInt64(place)) }
        teacher.copy(from: student)
        let batch = Self.pictures(4)
        let context = StepContext(
            step: 0, teacherTemperature: 0.04, teacherPatchTemperature: 0.04, batchImages: batch.images,
            prototypesFrozen: false)

        var references: [Int: Buffer] = [:]
        var expected = 0.0
        for precision in [Precision.float32, .float16, .int8] {
            objective.settings.precision = precision
            var sums = objective.newSums()
            objective.accumulate(batch, context: context, pool: pool, into: &sums)
            let loss = sums.losses.total
            var tally = CosineTally()
            for (place, parameter) in student.parameters.all.enumerated() {
                guard let gradient = parameter.gradient else {
                    XCTFail("\(precision): \(parameter.name) has no gradient")
                    continue
                }
                if let reference = references[place] {
                    tally.compare(parameter, gradient, reference.floats, pool)
                } else {
                    let kept = pool.floats(parameter.count)
                    kept.floats.update(from: gradient, count: parameter.count)
                    references[place] = kept
                }
            }
            student.parameters.clearGradients()
            if precision == .float32 {
                expected = loss
                continue
            }
            let deviation = abs(loss - expected) / expected
            // int8: 0.9991 (vectors), 0.9993 (matrices), 0.9994 (whole) were measured, with 2 and 6 pictures alike;
            // AVX2 differs in the sixth digit.
            XCTAssertLessThanOrEqual(deviation, precision == .float16 ? 1e-5 : 1e-3, "\(precision)")
            XCTAssertGreaterThanOrEqual(
                min(tally.leastMatrix.0, tally.leastOther.0), precision == .float16 ? 0.99999 : 0.999, "\(precision)")
            XCTAssertGreaterThanOrEqual(tally.whole, precision == .float16 ? 0.99999 : 0.999, "\(precision)")
            print("Precision \(precision) vit_small depth 12: loss off by \(deviation), \(tally)")
        }
    }

    /// Smooth colour fields with noise, other ones in every view, masks as the recipe draws them.
    private static func pictures(_ images: Int) -> CropBatch {
        let side = 224, patch = 16, grid = side / patch
        let batch = CropBatch(
            images: images, globalSize: side, localViews: 0, localSize: 0, tokens: grid * grid, firstImage: 0)
        batch.globals.withUnsafeMutableBufferPointer { pixels in
            for plane in 0..<images * 2 * 3 {
                var random = CounterRandom(seed: 5, stream: 1, UInt64(plane))
                let (fx, fy, phase) = (random.uniform(0.01, 0.1), random.uniform(0.01, 0.1), random.uniform(0, 6))
                for y in 0..<side {
                    let row = (plane * side + y) * side
                    for x in 0..<side {
                        pixels[row + x] =
                            1.5 * sin(Float(x) * fx + Float(y) * fy + phase) + 0.1 * Float((x * 7 + y * 13) % 5)
                    }
                }
            }
        }
        for view in 0..<images * 2 where view % 2 == 0 {
            for token in 0..<grid * grid where token / grid < 6 && token % grid > 4 {
                batch.masks[view * grid * grid + token] = 1
            }
        }
        return batch
    }
}

/// Least and total cosine between the gradients of two policies.
private struct CosineTally: CustomStringConvertible {
    private(set) var leastMatrix = (1.0, "-"), leastOther = (1.0, "-")
    private var dot = 0.0, squares = (0.0, 0.0)

    var whole: Double { dot / max((squares.0 * squares.1).squareRoot(), 1e-300) }
    var description: String {
        "least cosine of matrices \(leastMatrix), of others \(leastOther), of the whole model \(whole)"
    }

    mutating func compare(
        _ parameter: Parameter, _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ pool: BufferPool
    ) {
        // Softmax ignores a constant: the exact gradient of the key bias is zero.
        let third = parameter.count / 3
        let parts = parameter.name.hasSuffix("qkv.bias") ? [0..<third, 2 * third..<3 * third] : [0..<parameter.count]
        let (x, y) = (pool.floats(parameter.count), pool.floats(parameter.count))
        var count = 0
        for part in parts {
            (x.floats + count).update(from: a + part.lowerBound, count: part.count)
            (y.floats + count).update(from: b + part.lowerBound, count: part.count)
            count += part.count
        }
        let (m, n) = (hssl_sum_squares(count, x.floats), hssl_sum_squares(count, y.floats))
        // 1 − ‖x/‖x‖ − y/‖y‖‖²/2 keeps the digits that 1 − cosine is made of.
        hssl_scale(count, Float(1 / max(m.squareRoot(), 1e-30)), x.floats)
        hssl_axpy(count, Float(-1 / max(n.squareRoot(), 1e-30)), y.floats, x.floats)
        let cosine = 1 - hssl_sum_squares(count, x.floats) / 2
        dot += cosine * (m * n).squareRoot()
        squares = (squares.0 + m, squares.1 + n)
        let matrix = parameter.shape.count > 1
        if matrix, cosine < leastMatrix.0 { leastMatrix = (cosine, parameter.name) }
        if !matrix, cosine < leastOther.0 { leastOther = (cosine, parameter.name) }
    }
}

extension Parameter {
    /// The distribution of `initializer`, near enough and drawn by C: sums of four random bytes for a normal, one of 16
    /// bits for a uniform (a debug build takes minutes for tens of millions of draws in Swift).
    fileprivate func drawQuickly(key: UInt64) {
        let (bytes, gains): (Int, [Float])
        switch initializer {
        case .zeros: return values.update(repeating: 0, count: count)
        case .ones: return values.update(repeating: 1, count: count)
        case .constant(let value): return values.update(repeating: value, count: count)
        case .truncatedNormal(let deviation):
            (bytes, gains) = (4, [Float](repeating: deviation / (4 * 73.9 * 73.9).squareRoot(), count: 4))
        case .uniform(let bound): (bytes, gains) = (2, [bound / 128.5, bound / 128.5 / 256])
        }
        let blocks = (count + 15) / 16
        var codes = [Int8](repeating: 0, count: blocks * 16)
        var draw = [Float](repeating: 0, count: count)
        for place in 0..<bytes {
            codes.withUnsafeMutableBytes { raw in
                guard let words = raw.bindMemory(to: UInt32.self).baseAddress else { return }
                for block in 0..<blocks { hssl_philox(key, UInt64(block), UInt64(place), words + block * 4) }
            }
            var scale = gains[place]
            hssl_dequantize_rows_s8(1, count, codes, count, &scale, &draw, count)
            hssl_axpy(count, 1, draw, values)
        }
        valuesDidChange()
    }
}
