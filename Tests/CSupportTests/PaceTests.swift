import CSupport
import XCTest

/// When a thread leaves its team alone: other programs want the cores.
final class PaceTests: XCTestCase {
    private static let millisecond: Int64 = 1_000_000

    /// Regions of a millisecond of which `idle` is waiting, until `alone` or for a second; the milliseconds that took.
    private func untilAlone(_ pace: inout hssl_pace, team: Int32, idle: Double, from start: Int64 = 0) -> Int64? {
        for millisecond in 1...1000 {
            let now = start + Int64(millisecond) * Self.millisecond
            hssl_pace_add(&pace, team, now, Self.millisecond, Int64(idle * Double(Self.millisecond)))
            if hssl_pace_is_alone(&pace, now) { return Int64(millisecond) }
        }
        return nil
    }

    func testRegionsThatPayGoOn() {
        for (team, idle) in [(2, 0.0), (2, 0.5), (4, 0.75), (16, 0.9)] {
            var pace = hssl_pace()
            XCTAssertNil(untilAlone(&pace, team: Int32(team), idle: idle), "\(team) threads, waiting \(idle)")
        }
    }

    func testAThreadThatWaitsGoesOnAloneForLongerAndLonger() {
        var pace = hssl_pace(), now: Int64 = 0
        for rest in [50, 100, 200, 400, 800, 1000, 1000] as [Int64] {
            guard let spent = untilAlone(&pace, team: 2, idle: 0.7, from: now) else { return XCTFail("waits for good") }
            XCTAssertEqual(spent, 20, "a window decides")
            now += spent * Self.millisecond
            XCTAssertTrue(hssl_pace_is_alone(&pace, now + rest * Self.millisecond - 1), "\(rest) ms")
            now += rest * Self.millisecond
            XCTAssertFalse(hssl_pace_is_alone(&pace, now), "after \(rest) ms regions are tried again")
        }
        XCTAssertNil(untilAlone(&pace, team: 2, idle: 0.1, from: now), "the others have gone")
        XCTAssertEqual(untilAlone(&pace, team: 2, idle: 0.9, from: now), 20)
        XCTAssertEqual(pace.rest, 50 * Self.millisecond, "and what was before does not count")
    }

    func testOneLongAbsenceDecidesNothingByItself() {
        var pace = hssl_pace()
        for _ in 0..<15 { hssl_pace_add(&pace, 2, 0, Self.millisecond, 0) }
        hssl_pace_add(&pace, 2, 0, 10 * Self.millisecond, 10 * Self.millisecond)
        XCTAssertFalse(hssl_pace_is_alone(&pace, 0))
    }
}
