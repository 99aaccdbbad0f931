import XCTest

@testable import HSSLEvaluation

final class ClassMatchingTests: XCTestCase {
    func testNamesInAnyOrderFormAndNumber() throws {
        let numbers = (0...11).map(String.init)
        let matched = try ClassMatching(reference: numbers.sorted(), query: numbers)
        XCTAssertEqual(matched.queryLabels.map { $0.map { numbers.sorted()[$0] } }, numbers)
        let forms = try ClassMatching(reference: ["caf\u{e9}", "cafz", "zoo"],
            query: ["cafz", "cafe\u{301}", "Zoo", "zoo"])
        XCTAssertEqual(forms.queryLabels, [1, 0, nil, 2])
        XCTAssertEqual(try ClassMatching(reference: ["00", "01", "10", "a1"],
            query: ["0", "1", "010", "1a", "2"]).queryLabels, [0, 1, 2, nil, nil])
        // Both forms on one side are one class; an exact name comes before the same number.
        XCTAssertEqual(try ClassMatching(reference: ["cafe\u{301}", "caf\u{e9}"],
            query: ["caf\u{e9}"]).referenceLabels, [0, 0])
        XCTAssertEqual(try ClassMatching(reference: ["1", "01"], query: ["01", "1"]).queryLabels, [1, 0])
        XCTAssertThrowsError(try ClassMatching(reference: ["1", "01"], query: ["001"])) {
            XCTAssertTrue("\($0)".contains("'1' and '01'"))
        }
    }
}
