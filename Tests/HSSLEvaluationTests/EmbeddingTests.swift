import HSSLData
import XCTest

@testable import HSSLEvaluation

final class EmbeddingTests: XCTestCase {
    func testClassesAreFoldersBelowTheCommonOne() throws {
        let labels = try ImageLabels(
            names: ["d/train/zoo/1.png", "d/train/cat/x/2.png", "d/train/cat/y/3.png"], source: "e.npy")
        XCTAssertEqual(labels.classNames, ["cat", "zoo"])
        XCTAssertEqual(labels.labels, [1, 0, 0])
        for names in [["d/cat/1.png", "d/cat/2.png"], ["d/1.png", "d/cat/2.png"], ["1.png"]] {
            XCTAssertThrowsError(try ImageLabels(names: names, source: "e.npy")) {
                XCTAssertTrue("\($0)".hasPrefix("e.npy: no class of '"), "\($0)")
            }
        }
    }

    func testNamesOfIDXImages() {
        XCTAssertEqual(ImageLabels.idxPlace("a/t-images-idx3-ubyte.gz#12")?.file, "a/t-images-idx3-ubyte.gz")
        XCTAssertEqual(ImageLabels.idxPlace("a#b-images-idx3-ubyte#0")?.number, 0)
        for name in ["a#1", "t-images-idx3-ubyte", "t-images-idx3-ubyte#-1", "t-images-idx3-ubyte#x"] {
            XCTAssertNil(ImageLabels.idxPlace(name), name)
        }
    }

    func testPrincipalComponentsOfAKnownSpread() throws {
        // Variances 9, 4 and 1 along three orthogonal directions.
        let side = Float(0.5.squareRoot())
        let directions: [[Float]] = [[side, side, 0], [side, -side, 0], [0, 0, 1]]
        var features: [Float] = []
        for signs in 0..<8 {
            for d in 0..<3 {
                var value: Float = 5
                for c in 0..<3 {
                    let size = Float(3 - c)
                    value += ((signs >> c) & 1 == 0 ? size : -size) * directions[c][d]
                }
                features.append(value)
            }
        }
        let found = try PrincipalComponents(features: features, dimension: 3, count: 2)
        XCTAssertEqual(found.shares[0], 9.0 / 14, accuracy: 1e-5)
        XCTAssertEqual(found.shares[1], 4.0 / 14, accuracy: 1e-5)
        for signs in 0..<8 {
            XCTAssertEqual(found.coordinates[2 * signs], signs & 1 == 0 ? Float(3) : -3, accuracy: 1e-3)
            XCTAssertEqual(abs(found.coordinates[2 * signs + 1]), 2, accuracy: 1e-3)
        }
        let flat = try PrincipalComponents(features: [2, 3, 2, 3], dimension: 2, count: 2)
        XCTAssertEqual(flat.shares, [0, 0])
        XCTAssertEqual(flat.coordinates, [0, 0, 0, 0])
        XCTAssertEqual(PatchColors(flat).pixels(of: 0..<1), [128, 128, 128])
    }

    func testEvenlySpread() {
        XCTAssertEqual(EmbeddingReport.evenly(3, of: 2), [0, 1])
        XCTAssertEqual(EmbeddingReport.evenly(3, of: 9), [0, 3, 6])
        XCTAssertEqual(EmbeddingReport.evenly(2, of: 9, with: [8, 0]), [0, 4, 8])
    }
}

final class SegmentationTests: XCTestCase {
    func testMajorityOfAPatch() {
        // 4 × 4 pixels, 2 × 2 patches of 2 × 2: a tie goes to the lower colour, ignored pixels do not count.
        let segmentation = Segmentation(grid: 2, side: 4, dimension: 1, ignored: [255])
        let mask = [
            7, 7, 2, 1,
            7, 1, 1, 2,
            255, 255, 255, 9,
            255, 255, 255, 255,
        ]
        XCTAssertEqual(segmentation.majorities(mask), [7, 1, nil, 9])
    }

    func testHalvesAreLearntAndIntersectionsByHand() throws {
        // The feature of a patch is its class. 4 patches of 2 × 2 pixels.
        var segmentation = Segmentation(grid: 2, side: 4, dimension: 1, ignored: [255])
        func mask(_ colors: [Int]) -> [Int] { (0..<16).map { colors[$0 / 8 * 2 + $0 % 4 / 2] } }
        for image in 0..<20 {
            let colors = [image % 2, 1, 0, (image + 1) % 2]
            segmentation.train(colors.map { Float($0) }[...], mask: mask(colors))
        }
        var head = try segmentation.head(strengths: [1e-4])
        // Left and right: the boundary lies in the middle, where interpolated logits change their order.
        XCTAssertEqual(head.classes([0, 1, 0, 1]), mask([0, 1, 0, 1]))
        try head.judge([0, 1, 0, 1], mask: mask([0, 1, 0, 1]), name: "a")
        XCTAssertEqual(head.result.meanIoU, 1)
        // Second image: the truth is 0 in three quarters of which a third is ignored; the answer is 0 left, 1 right.
        try head.judge([0, 1, 0, 1], mask: mask([0, 0, 255, 1]), name: "b")
        // Class 0: right 8 + 4, union 8 + 4 + 4; class 1: right 8 + 4, union 8 + 4 + 4.
        XCTAssertEqual(head.result.classes.map(\.iou), [0.75, 0.75])
        XCTAssertEqual(head.result.pixelAccuracy, 24.0 / 28)
        XCTAssertThrowsError(try head.judge([0, 1, 0, 1], mask: mask([0, 1, 0, 9]), name: "c.png")) {
            XCTAssertTrue("\($0)".contains("c.png: its mask has #000009"), "\($0)")
        }
        XCTAssertTrue(
            head.result.json.hasPrefix(
                #"{"train_images":20,"test_images":2,"dimension":1,"l2":0.0001,"miou":0.75,"pixel_accuracy":0.857"#),
            head.result.json)
    }
}
