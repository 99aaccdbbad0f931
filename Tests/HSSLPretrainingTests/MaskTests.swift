import Foundation
import XCTest
@testable import HSSLPretraining

final class MaskTests: XCTestCase {
    private func generator(
        _ side: Int, ratio: [Double] = [0, 0.3], variance: [Double] = [0, 0.2], shape: Recipe.MaskShape = .block,
        width: Int? = nil
    ) throws
        -> MaskGenerator
    {
        var objective = try Recipe.parse(
            "model: {architecture: a, image_size: 8, patch_size: 4}", file: "r", architectures: ["a"]).objective
        objective.maskRatio = ratio
        objective.maskRatioVariance = variance
        objective.maskShape = shape
        return MaskGenerator(objective: objective, height: side, width: width ?? side)
    }

    private func ratios(_ generator: MaskGenerator, views: Int) -> [Double] {
        (0..<views).map { i in
            Double(generator.mask(seed: 1, step: i / 64, image: i / 2 % 32, view: i % 2).reduce(0) { $0 + Int($1) })
                / Double(generator.height * generator.width)
        }
    }

    private func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(values.count) }

    /// Figures of tools/simulate_masks.py, whose own standard errors are 0.0008 and 0.0012; bounds are four combined
    /// standard errors.
    func testBlockStatisticsEqualThePythonSimulation() throws {
        for (side, views, expectedMean, expectedOfMasked, bound) in [
            (7, 20_000, 0.14326, 0.28717, 0.006), (14, 8_000, 0.14639, 0.29441, 0.009)] {
            let achieved = ratios(try generator(side), views: views)
            let masked = achieved.filter { $0 > 0 }
            XCTAssertEqual(mean(achieved), expectedMean, accuracy: bound, "\(side)×\(side)")
            XCTAssertEqual(mean(masked), expectedOfMasked, accuracy: bound, "\(side)×\(side)")
            XCTAssertEqual(Double(views - masked.count) / Double(views), 0.5, accuracy: 0.025, "\(side)×\(side)")
            XCTAssertLessThanOrEqual(achieved.max() ?? 1, 0.5)
        }
    }

    func testBlocksNeverExceedTheWantedCount() throws {
        for (height, width) in [(1, 1), (2, 2), (3, 5), (7, 7), (5, 20), (14, 14)] {
            for ratio in [0, 0.05, 0.33, 0.75, 1] {
                let generator = try generator(height, ratio: [ratio], variance: [0], width: width)
                for image in 0..<50 {
                    let mask = generator.mask(seed: 9, step: 0, image: image, view: 0)
                    XCTAssertEqual(mask.count, height * width)
                    XCTAssertTrue(mask.allSatisfy { $0 <= 1 })
                    XCTAssertLessThanOrEqual(Double(mask.reduce(0) { $0 + Int($1) }), ratio * Double(height * width))
                }
            }
        }
    }

    /// With a small ratio the first rectangle is often all there is: then its sides must obey the aspect and area
    /// bounds.
    func testSingleBlocksObeyTheAspectAndAreaBounds() throws {
        let generator = try generator(30, ratio: [0.13], variance: [0])   // want 117, smallest area 100
        var checked = 0
        for image in 0..<600 {
            let mask = generator.mask(seed: 3, step: 0, image: image, view: 1)
            let cells = mask.indices.filter { mask[$0] == 1 }.map { ($0 / 30, $0 % 30) }
            guard let top = cells.map(\.0).min(), let bottom = cells.map(\.0).max(), let left = cells.map(\.1).min(),
                  let right = cells.map(\.1).max() else { continue }
            let h = bottom - top + 1, w = right - left + 1
            guard h * w == cells.count, cells.count > 90 else { continue }
            checked += 1
            // h = round(√(area·aspect)), w = round(√(area/aspect)): h/w may leave (0.3, 1/0.3) by the rounding of both
            // sides.
            XCTAssertGreaterThan((Double(h) + 0.5) / (Double(w) - 0.5), 0.3)
            XCTAssertLessThan((Double(h) - 0.5) / (Double(w) + 0.5), 1 / 0.3)
            XCTAssertLessThanOrEqual(cells.count, 117)
        }
        XCTAssertGreaterThan(checked, 100)
    }

    func testRandomShapeDrawsTheExactCountUniformly() throws {
        let generator = try generator(6, ratio: [0.4], variance: [0], shape: .random)
        var hits = [Int](repeating: 0, count: 36)
        let draws = 6_000
        for step in 0..<draws {
            let mask = generator.mask(seed: 5, step: step, image: 0, view: 0)
            XCTAssertEqual(mask.reduce(0) { $0 + Int($1) }, 14, "⌊0.4·36⌋")
            for i in mask.indices { hits[i] += Int(mask[i]) }
        }
        // Binomial(6000, 14/36): σ ≈ 37.8; five of them.
        for count in hits { XCTAssertEqual(Double(count), Double(draws) * 14 / 36, accuracy: 190) }
        let all = try self.generator(6, ratio: [1], variance: [0], shape: .random)
        XCTAssertEqual(all.mask(seed: 0, step: 0, image: 0, view: 0), [UInt8](repeating: 1, count: 36))
    }

    func testMaskDependsOnlyOnItsIdentity() throws {
        let generator = try generator(14, ratio: [0.3], variance: [0.1])
        let reference = generator.mask(seed: 7, step: 11, image: 13, view: 0)
        _ = generator.mask(seed: 7, step: 12, image: 1, view: 0)
        XCTAssertEqual(generator.mask(seed: 7, step: 11, image: 13, view: 0), reference)
        XCTAssertNotEqual(generator.mask(seed: 8, step: 11, image: 13, view: 0), reference)
        XCTAssertNotEqual(generator.mask(seed: 7, step: 12, image: 13, view: 0), reference)
        XCTAssertNotEqual(generator.mask(seed: 7, step: 11, image: 14, view: 0), reference)
        XCTAssertNotEqual(generator.mask(seed: 7, step: 11, image: 13, view: 1), reference)
    }
}
