import Foundation
import HSSLFormats
import Synchronization
import XCTest

@testable import HSSLData

final class DecodeBudgetTests: XCTestCase {
    /// Many threads that take and give: never more than the total at a time, and nobody waits for ever.
    func testNeverMoreThanTheTotal() {
        let budget = DecodeBudget(bytes: 100)
        let state = Mutex((now: 0, most: 0))
        DispatchQueue.concurrentPerform(iterations: 8) { thread in
            for round in 0..<300 {
                let wanted = (thread * 31 + round * 17) % 60 + 1
                budget.take(wanted)
                var held = wanted
                let more = (round * 13) % 50
                if budget.extend(by: more) { held += more }
                state.withLock { $0 = ($0.now + held, max($0.most, $0.now + held)) }
                if round % 16 == 0 { usleep(100) }
                state.withLock { $0.now -= held }
                budget.give(held)
            }
        }
        XCTAssertLessThanOrEqual(state.withLock(\.most), 100)
        XCTAssertGreaterThan(state.withLock(\.most), 50)
    }

    /// Small ones that ask later do not pass a large one.
    func testALargeOneComesToItsTurn() {
        let budget = DecodeBudget(bytes: 100)
        budget.take(60)
        let order = Mutex<[String]>([])
        let threads = [("large", 90), ("small", 20)].map { name, bytes in
            let thread = Thread {
                budget.take(bytes)
                order.withLock { $0.append(name) }
                budget.give(bytes)
            }
            thread.start()
            usleep(50_000)
            return thread
        }
        XCTAssertEqual(order.withLock { $0 }, [])
        budget.give(60)
        let end = Date() + 5
        while threads.contains(where: { !$0.isFinished }), Date() < end { usleep(1000) }
        XCTAssertEqual(order.withLock { $0 }, ["large", "small"])
    }

    /// Images of several threads within one amount of memory: each comes out, and what can never fit is refused with
    /// what it needs.
    func testImagesShareTheirMemory() throws {
        let fixtures = try Fixtures()
        let path = try fixtures.path("photo.jpg"), whole = try fixtures.image("photo.jpg")
        let roomy = ImageReader(limits: .default, count: 64)
        let needed = try XCTUnwrap(roomy.bytesNeeded(path: path, workspace: Preprocessing.workspace(side: 64)))
        let reader = ImageReader(limits: DecodeLimits(bytes: needed), count: 64)
        let inside = Mutex((now: 0, most: 0))
        DispatchQueue.concurrentPerform(iterations: 64) { index in
            let image = try? reader.withImage(
                index, path: path, background: .black, workspace: Preprocessing.workspace(side: 64)
            ) { image in
                inside.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) }
                usleep(200)
                inside.withLock { $0.now -= 1 }
                return image
            }
            XCTAssertEqual(image, whole)
        }
        XCTAssertEqual(inside.withLock(\.most), 1)
        reader.limit(toBytes: needed - 1, name: "--memory-limit")
        let refused = dataError {
            try reader.withImage(
                0, path: path, background: .black, workspace: Preprocessing.workspace(side: 64)
            ) { _ in }
        }
        XCTAssertEqual(refused?.kind, .tooLarge)
        let figure = "needs \(needed) bytes, more than the limit of \(needed - 1) (--memory-limit)"
        XCTAssertTrue(refused?.reason.contains(figure) ?? false, refused?.reason ?? "")
    }
}
