import CSupport
import Foundation
import HSSLData
import HSSLGraph
import TestSupport
import XCTest

@testable import HSSLPretraining

/// Draws of the augmentation against their distributions. Bounds are five standard errors; draws are fixed by the seed,
/// so a pass is a pass for good.
final class AugmentationTests: XCTestCase {
    override class func setUp() {
        var message = [CChar](repeating: 0, count: 200)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    }

    private func configuration(_ change: (inout Recipe.Data) -> Void = { _ in }) throws -> Recipe.Data {
        var data = try Recipe.parse(
            "model: {architecture: a, image_size: 224, patch_size: 4}", file: "r", architectures: ["a"]).data
        data.localCrops = 2
        data.localCropsSize = 16
        change(&data)
        return data
    }

    private func plans(
        _ augmentation: MultiCropAugmentation, view: Int, width: Int = 500, height: Int = 375, count: Int = 6000
    ) -> [ViewPlan] {
        (0..<count).map {
            augmentation.draw(view: view, width: width, height: height, key: .init(seed: 7, epoch: $0 % 3, index: $0))
        }
    }

    private func assertRate(_ hits: Int, of count: Int, _ p: Double, _ note: String, line: UInt = #line) {
        let error = 5 * (p * (1 - p) / Double(count)).squareRoot()
        XCTAssertEqual(Double(hits) / Double(count), p, accuracy: error, note, line: line)
    }

    /// Kolmogorov–Smirnov distance from the uniform distribution on `range`; 1.95/√n is exceeded once in a thousand
    /// times.
    private func assertUniform(_ values: [Double], in range: ClosedRange<Double>, _ note: String, line: UInt = #line) {
        let sorted = values.sorted()
        let n = Double(sorted.count)
        var distance = 0.0
        for (i, value) in sorted.enumerated() {
            XCTAssertTrue(range.contains(value), "\(note): \(value)", line: line)
            let cumulative = (value - range.lowerBound) / (range.upperBound - range.lowerBound)
            distance = max(distance, abs(cumulative - Double(i) / n), abs(cumulative - Double(i + 1) / n))
        }
        XCTAssertLessThan(distance, 1.95 / n.squareRoot(), note, line: line)
    }

    func testRatesOfEachView() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 32)
        let expected: [(blur: Double, solarize: Double)] = [(1, 0), (0.1, 0.2), (0.5, 0), (0.5, 0)]
        for view in 0..<augmentation.viewCount {
            let plans = plans(augmentation, view: view)
            let count = plans.count
            assertRate(plans.count(where: \.flips), of: count, 0.5, "flip \(view)")
            assertRate(plans.count { !$0.adjustments.isEmpty }, of: count, 0.8, "jitter \(view)")
            assertRate(plans.count(where: \.grays), of: count, 0.2, "greyscale \(view)")
            assertRate(plans.count { $0.blurRadius != nil }, of: count, expected[view].blur, "blur \(view)")
            assertRate(
                plans.count { $0.solarizeThreshold != nil }, of: count, expected[view].solarize, "solarize \(view)")
            XCTAssertTrue(plans.allSatisfy { ($0.solarizeThreshold ?? 128) == 128 })
        }
    }

    func testFactorsAreUniformAndOrdersEquallyLikely() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 32)
        let jittered = plans(augmentation, view: 0).filter { !$0.adjustments.isEmpty }
        func values(_ property: ColorAdjustment.Property) -> [Double] {
            jittered.compactMap { plan in plan.adjustments.first { $0.property == property }.map { Double($0.value) } }
        }
        assertUniform(values(.brightness), in: 0.6...1.4, "brightness")
        assertUniform(values(.contrast), in: 0.6...1.4, "contrast")
        assertUniform(values(.saturation), in: 0.8...1.2, "saturation")
        assertUniform(values(.hue), in: -0.1000001...0.1000001, "hue")
        assertUniform(
            plans(augmentation, view: 0).compactMap { $0.blurRadius.map { Double($0) } }, in: 0.1...2, "blur radius")

        var orders: [[Int]: Int] = [:]
        for plan in jittered { orders[plan.adjustments.map(\.property.rawValue), default: 0] += 1 }
        XCTAssertEqual(orders.count, 24)
        for (order, hits) in orders { assertRate(hits, of: jittered.count, 1.0 / 24, "order \(order)") }
    }

    func testAStrengthOfZeroSkipsTheStep() throws {
        let augmentation = MultiCropAugmentation(
            try configuration { $0.colorJitter = [0.4, 0, 0.2, 0]; $0.colorJitterProbability = 1 }, imageSize: 32)
        for plan in plans(augmentation, view: 0, count: 100) {
            XCTAssertEqual(Set(plan.adjustments.map(\.property)), [.brightness, .saturation])
        }
    }

    /// On a square image every draw with an area of up to 3/4 fits, so area and aspect keep their distributions.
    func testCropAreaAndAspect() throws {
        let augmentation = MultiCropAugmentation(
            try configuration { $0.globalCropsScale = [0.14, 0.7]; $0.localCropsScale = [0.05, 0.4] }, imageSize: 32)
        for (view, scale) in [(0, 0.14...0.7), (2, 0.05...0.4)] {
            let crops = plans(augmentation, view: view, width: 4000, height: 4000).map(\.crop)
            // Whole pixels move the ends of the range a little.
            let areas = crops.map { Double($0.width * $0.height) / 16e6 }
            assertUniform(areas, in: scale.lowerBound - 4e-4...scale.upperBound + 4e-4, "area \(view)")
            assertUniform(
                crops.map { log(Double($0.width) / Double($0.height)) }, in: log(0.749)...log(1.335), "aspect \(view)")
            XCTAssertTrue(
                crops.allSatisfy { $0.left >= 0 && $0.top >= 0 && $0.left + $0.width <= 4000 && $0.top + $0.height
                <= 4000 })
            let places = crops.map { (Double($0.left) + 0.5) / Double(4001 - $0.width) }
            assertUniform(places, in: 0...1, "left \(view)")
        }
    }

    /// Figures of torchvision's algorithm in Python on the same shapes, 200,000 draws: see tools/simulate_crops.py.
    func testCropStatisticsEqualThePythonSimulation() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 32)
        for reference in CropStatistics.simulated {
            let count = 20_000
            let crops =
                plans(augmentation, view: 0, width: reference.width, height: reference.height, count: count).map(\.crop)
            let area = crops.map { Double($0.width * $0.height) / Double(reference.width * reference.height) }
            let mean = area.reduce(0, +) / Double(count)
            XCTAssertEqual(mean, reference.meanArea, accuracy: 5 * 0.25 / Double(count).squareRoot(), "\(reference)")
            let whole = RandomResizedCrop.fallback(width: reference.width, height: reference.height)
            assertRate(crops.count { $0 == whole }, of: count, reference.fallbackRate, "\(reference)")
        }
    }

    func testFallbackIsTheCentreWithTheNearestAspect() {
        XCTAssertEqual(
            RandomResizedCrop.fallback(width: 100, height: 100),
            CropRectangle(left: 0, top: 0, width: 100, height: 100))
        XCTAssertEqual(
            RandomResizedCrop.fallback(width: 300, height: 90), CropRectangle(left: 90, top: 0, width: 120, height: 90))
        XCTAssertEqual(
            RandomResizedCrop.fallback(width: 30, height: 200), CropRectangle(left: 0, top: 80, width: 30, height: 40))
        XCTAssertEqual(
            RandomResizedCrop.fallback(width: 1, height: 1), CropRectangle(left: 0, top: 0, width: 1, height: 1))
        XCTAssertEqual(RandomResizedCrop.fallback(width: 1, height: 1000).height, 1)
    }

    private func texture(_ width: Int, _ height: Int) -> RGBImage {
        RGBImage(
            width: width, height: height,
            pixels: (0..<3 * width * height).map { UInt8(truncatingIfNeeded: $0 &* 37 ^ ($0 / 11) &* 101) })
    }

    private func views(
        _ augmentation: MultiCropAugmentation, _ image: RGBImage, _ key: MultiCropAugmentation.Key
    ) -> [[Float]] {
        (0..<augmentation.viewCount).map { view in
            [Float](unsafeUninitializedCapacity: augmentation.count(ofView: view)) { buffer, count in
                if let output = buffer.baseAddress { augmentation.make(view: view, of: image, key: key, into: output) }
                count = augmentation.count(ofView: view)
            }
        }
    }

    func testViewsDependOnTheKeyAlone() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 24)
        let image = texture(50, 37)
        let first = views(augmentation, image, .init(seed: 1, epoch: 2, index: 3))
        XCTAssertEqual(views(augmentation, image, .init(seed: 1, epoch: 2, index: 3)), first)
        for key in [
            MultiCropAugmentation.Key(seed: 2, epoch: 2, index: 3), .init(seed: 1, epoch: 3, index: 3),
            .init(seed: 1, epoch: 2, index: 4)] {
            XCTAssertNotEqual(views(augmentation, image, key), first)
        }
        XCTAssertEqual(Set(first.map(\.count)), [3 * 24 * 24, 3 * 16 * 16])
        XCTAssertNotEqual(first[0], first[1])
        for threads in [1, 2, 4] {
            let loader = PrefetchLoader(count: 12, threads: threads, capacity: 4) { index in
                var all = [[Float]]()
                for view in 0..<augmentation.viewCount {
                    var output = [Float](repeating: .nan, count: augmentation.count(ofView: view))
                    augmentation.make(view: view, of: image, key: .init(seed: 1, epoch: 0, index: index), into: &output)
                    all.append(output)
                }
                return all
            }
            for index in 0..<12 {
                XCTAssertEqual(
                    try loader.next()?.get(), views(augmentation, image, .init(seed: 1, epoch: 0, index: index)))
            }
        }
    }

    func testViewsAreTheSameOnEveryInstructionSet() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 40)
        let image = texture(61, 83)
        let selected = hssl_isa_selected()
        defer { XCTAssertTrue(hssl_isa_select(selected)) }
        for index in 0..<20 {
            let key = MultiCropAugmentation.Key(seed: 5, epoch: 0, index: index)
            XCTAssertTrue(hssl_isa_select(HSSL_ISA_SCALAR))
            let scalar = views(augmentation, image, key)
            for isa in [HSSL_ISA_AVX2, HSSL_ISA_AVX512] where hssl_isa_select(isa) {
                XCTAssertEqual(views(augmentation, image, key), scalar)
            }
        }
    }

    /// With every step off, a crop of the whole image at its own size is the normalised image.
    func testAllStepsOffIsTheIdentity() throws {
        let data = try configuration {
            $0.globalCropsScale = [1, 1]
            $0.flipProbability = 0
            $0.colorJitterProbability = 0
            $0.grayscaleProbability = 0
            $0.blurProbability = [0, 0, 0]
            $0.solarizeProbability = 0
            $0.mean = [0, 0.25, 0.5]
            $0.std = [1, 0.5, 2]
        }
        let augmentation = MultiCropAugmentation(data, imageSize: 32)
        let image = texture(32, 32)
        let key = try XCTUnwrap(
            (0..<1000).map { MultiCropAugmentation.Key(seed: 0, epoch: 0, index: $0) }
                .first { augmentation.draw(view: 0, width: 32, height: 32, key: $0).crop
                == CropRectangle(left: 0, top: 0, width: 32, height: 32) })
        let view = views(augmentation, image, key)[0]
        for c in 0..<3 {
            for i in 0..<32 * 32 {
                XCTAssertEqual(
                    view[c * 32 * 32 + i],
                    (Float(image.pixels[3 * i + c]) / 255 - Float(data.mean[c])) / Float(data.std[c]), accuracy: 1e-6)
            }
        }
    }

    func testImagesOfAnyShapeWork() throws {
        let augmentation = MultiCropAugmentation(try configuration(), imageSize: 28)
        for (width, height) in [(1, 1), (1, 400), (400, 1), (2, 3), (28, 28), (1000, 3)] {
            for index in 0..<20 {
                for view in views(augmentation, texture(width, height), .init(seed: 3, epoch: 0, index: index)) {
                    XCTAssertTrue(view.allSatisfy(\.isFinite))
                }
            }
        }
    }

    /// Prints what an image costs (`swift test -c release`); in debug builds only that it works.
    func testSpeed() throws {
        for (side, size, iterations) in [(28, 28, 300), (375, 224, 8)] {
            let augmentation = MultiCropAugmentation(try configuration { $0.localCrops = 0 }, imageSize: size)
            let image = texture(side * 4 / 3, side)
            var outputs = (0..<2).map { [Float](repeating: 0, count: augmentation.count(ofView: $0)) }
            let start = processorTime()
            for index in 0..<iterations {
                for view in 0..<2 {
                    augmentation.make(
                        view: view, of: image, key: .init(seed: 0, epoch: 0, index: index), into: &outputs[view])
                }
            }
            let milliseconds = (processorTime() - start) / Double(iterations) * 1e3
            print("augmentation: 2 views of \(size) px: \((milliseconds * 1000).rounded() / 1000) ms an image")
            if !isInstrumented { XCTAssertLessThan(milliseconds, size == 28 ? 10 : 200) }
        }
    }
}

/// What tools/simulate_crops.py prints: torchvision's get_params with scale 0.14…1.
struct CropStatistics {
    let width: Int
    let height: Int
    let meanArea: Double
    let fallbackRate: Double

    static let simulated = [
        CropStatistics(width: 500, height: 375, meanArea: 0.46328, fallbackRate: 0.00002),
        CropStatistics(width: 28, height: 28, meanArea: 0.52198, fallbackRate: 0.00311),
        CropStatistics(width: 100, height: 300, meanArea: 0.26211, fallbackRate: 0.06832),
        CropStatistics(width: 400, height: 60, meanArea: 0.19198, fallbackRate: 0.79770),
    ]
}
