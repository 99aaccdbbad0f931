import CSupport
import XCTest

/// Every registered row belongs to a family that a test case runs on every row the machine supports. A new family fails
/// here first.
final class KernelCoverageTests: XCTestCase {
    private let covered: [(XCTestCase.Type, [String])] = [
        (BaseKernelTests.self, BaseKernelTests.families),
        (GemmKernelTests.self, GemmKernelTests.families),
        (QuantizeKernelTests.self, QuantizeKernelTests.families),
        (AttentionKernelTests.self, ["attention"]),
        (BiasedAttentionKernelTests.self, ["attention"]),
        (ConvKernelTests.self, ["conv"]),
        (UnfoldPoolKernelTests.self, ["conv"]),
        (ElementwiseKernelTests.self, ["elementwise"]),
        (TokenKernelTests.self, ["elementwise"]),
        (ImageKernelTests.self, ["image"]),
        (NormKernelTests.self, ["norm"]),
        (GroupNormKernelTests.self, ["norm"]),
        (OptimizerKernelTests.self, ["optimizer"]),
    ]

    private var rows: [(name: String, family: String, isa: hssl_isa)] {
        (0..<hssl_kernel_count()).map {
            let row = hssl_kernel_at($0)
            return (String(cString: row.name), String(cString: row.family), row.isa)
        }
    }

    func testEveryRowHasACase() {
        let families = Set(covered.flatMap(\.1))
        for row in rows {
            XCTAssertTrue(families.contains(row.family), "\(row.name): no test covers family \(row.family)")
        }
        XCTAssertEqual(families.subtracting(rows.map(\.family)), [], "covered, but not registered")
    }

    func testNamesAreUniqueAndEveryFamilyHasAScalarRow() {
        XCTAssertEqual(Set(rows.map(\.name)).count, rows.count)
        let scalar = Set(rows.filter { $0.isa == HSSL_ISA_SCALAR }.map(\.family))
        XCTAssertEqual(Set(rows.map(\.family)).subtracting(scalar), [])
    }
}
