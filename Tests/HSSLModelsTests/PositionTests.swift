import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels

/// Position embeddings at another grid against DINO's `interpolate_pos_encoding`; values by
/// tools/position_reference.py.
final class PositionTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    /// Source side, target rows and columns, the expected rows for p[i] = ((7i² + 3i) mod 17)/17 − ½.
    private static let reference: [(side: Int, height: Int, width: Int, expected: [Double])] = [
        (
            4, 6, 6,
            [
                -0.583596470, -0.149023512, 0.088582784, -0.463593904, -0.517313155, -0.261325339, -0.420603435,
                -0.303200781,
        -0.148872810, -0.080006925, -0.128717988, -0.220068028, -0.110786814, -0.257651202, -0.183247664, 0.379280104,
        0.321964817,
        -0.058661681, 0.214425988, 0.237618513, 0.334599613, 0.514300508, 0.427532973, 0.233402802, 0.125888794,
        0.353099359,
        0.473873111, 0.186857513, 0.060761916, 0.090411690, -0.154048391, 0.192917762, 0.326376416, -0.237487503,
        -0.388221500,
        -0.227200840]),
        (4, 2, 2, [-0.301461457, -0.141215163, 0.361393412, 0.136956197]),
        (
            3, 5, 2,
            [
                -0.384046108, -0.261786942, -0.363421910, -0.296216303, -0.264186282, -0.287666436, 0.061672687,
                -0.057380232, 0.326098272, 0.147224415]),
        (
            4, 2, 8,
            [
                -0.434534252, -0.355945770, -0.225378802, -0.121402640, -0.101735927, -0.126201505, -0.185305127,
                -0.225712506, 0.163788405, 0.274173469, 0.465000685, 0.473485699, 0.286206993, 0.146996162, 0.140877185,
                0.139192366]),
        (1, 2, 2, [-0.500000000, -0.500000000, -0.500000000, -0.500000000]),
    ]

    private func embedding(side: Int) -> [Double] {
        (0..<side * side).map { i -> Double in
            let hash = (7 * i * i + 3 * i) % 17
            return Double(hash) / 17 - 0.5
        }
    }

    func testValuesEqualTheReference() {
        for (side, height, width, expected) in Self.reference {
            let matrix = PositionResampling.matrix(from: side, to: Grid(height: height, width: width))
            let source = embedding(side: side)
            XCTAssertEqual(matrix.count, expected.count * source.count)
            for (target, value) in expected.enumerated() {
                let ours = source.indices.reduce(0.0) { $0 + Double(matrix[target * source.count + $1]) * source[$1] }
                XCTAssertEqual(ours, value, accuracy: 1e-6, "\(side)² -> \(height)x\(width), row \(target)")
            }
        }
    }

    /// Bicubic weights sum to one: a constant stays constant at the edge too.
    func testWeightsSumToOne() {
        for (side, height, width) in [(14, 6, 6), (7, 4, 9), (3, 1, 1), (1, 3, 2)] {
            let matrix = PositionResampling.matrix(from: side, to: Grid(height: height, width: width))
            for target in 0..<height * width {
                let sum = matrix[target * side * side..<(target + 1) * side * side].reduce(0.0) { $0 + Double($1) }
                XCTAssertEqual(sum, 1, accuracy: 1e-6)
            }
        }
    }

    /// The tape's operation keeps the CLS row and applies the matrix to each channel of the others.
    func testTheOperationAppliesTheMatrixToEveryChannel() {
        let (side, height, width, expected) = Self.reference[2]
        let source = embedding(side: side)
        let tape = Tape(mode: .inference, pool: BufferPool())
        let positions = tape.constant(
            [9, 8] + source.flatMap { [Float($0), Float(-2 * $0)] }, shape: [1, 1 + side * side, 2])
        let result = positions.resampledPositions(
            matrix: PositionResampling.matrix(from: side, to: Grid(height: height, width: width)), rows: height * width)
        XCTAssertEqual(result.shape, [1, 1 + height * width, 2])
        let values = result.array()
        XCTAssertEqual(Array(values[..<2]), [9, 8])
        for (row, value) in expected.enumerated() {
            XCTAssertEqual(Double(values[2 + 2 * row]), value, accuracy: 1e-6)
            XCTAssertEqual(Double(values[3 + 2 * row]), -2 * value, accuracy: 2e-6)
        }
    }
}
