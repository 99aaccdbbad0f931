import Foundation
import XCTest

@testable import HSSLData

final class LoaderTests: XCTestCase {
    private struct Fault: Error, Equatable { let index: Int }

    private func loader(count: Int, threads: Int, capacity: Int = 5) -> PrefetchLoader<Int> {
        PrefetchLoader(count: count, threads: threads, capacity: capacity) { index in
            // Late items first: order must come from the queue.
            usleep(UInt32(index % 7 * 40))
            if index % 13 == 4 { throw Fault(index: index) }
            return index * index
        }
    }

    func testSameSequenceForAnyThreadCount() {
        for threads in [1, 2, 4, 9] {
            let loader = loader(count: 200, threads: threads)
            for index in 0..<200 {
                switch loader.next() {
                case .success(let value): XCTAssertEqual(value, index * index)
                case .failure(let error): XCTAssertEqual(error as? Fault, Fault(index: index))
                case nil: XCTFail("ended at \(index)")
                }
            }
            XCTAssertNil(loader.next())
            XCTAssertNil(loader.next())
        }
    }

    func testErrorsKeepTheirPlace() {
        let loader = loader(count: 40, threads: 3)
        var failed: [Int] = []
        var index = 0
        while let item = loader.next() {
            if case .failure = item { failed.append(index) }
            index += 1
        }
        XCTAssertEqual(failed, [4, 17, 30])
        XCTAssertEqual(index, 40)
    }

    func testStopsAtAnyTime() {
        for taken in [0, 1, 3, 20] {
            let loader = loader(count: .max, threads: 4)
            for _ in 0..<taken { XCTAssertNotNil(loader.next()) }
            loader.stop()
            loader.stop()
            XCTAssertNil(loader.next())
        }
        for _ in 0..<50 { _ = loader(count: .max, threads: 2) }  // dropped at once
    }

    /// `stop` from another thread wakes a consumer that waits.
    func testStopWakesTheConsumer() {
        let release = DispatchSemaphore(value: 0)
        let loader = PrefetchLoader<Int>(count: 10, threads: 2, capacity: 2) { index in
            release.wait()
            return index
        }
        let stopping = expectation(description: "stopped")
        DispatchQueue.global().asyncAfter(deadline: .now() + 0.05) {
            DispatchQueue.global().asyncAfter(deadline: .now() + 0.05) { for _ in 0..<10 { release.signal() } }
            loader.stop()
            stopping.fulfill()
        }
        XCTAssertNil(loader.next())
        wait(for: [stopping], timeout: 10)
    }

    func testNeverRunsFarAhead() {
        final class Highest: @unchecked Sendable {  // guarded by the lock
            private let lock = NSLock()
            private var value = -1
            func raise(to new: Int) { lock.withLock { value = max(value, new) } }
            var current: Int { lock.withLock { value } }
        }
        let highest = Highest()
        let loader = PrefetchLoader<Int>(count: 1000, threads: 3, capacity: 4) { index in
            highest.raise(to: index)
            return index
        }
        for index in 0..<100 {
            _ = loader.next()
            XCTAssertLessThanOrEqual(highest.current, index + 4)
        }
        usleep(20_000)
        XCTAssertLessThanOrEqual(highest.current, 103)
    }

    func testNothingToLoad() { XCTAssertNil(loader(count: 0, threads: 2).next()) }

    func testDecodingOnThreadsGivesTheSameImages() throws {
        let fixtures = try Fixtures()
        let files = try fixtures.manifest.decode.map { try fixtures.path($0.file) }
        let alone = try files.map { try ImageDecoder.decode(path: $0) }
        for threads in [1, 2, 4] {
            let loader = PrefetchLoader(count: files.count, threads: threads, capacity: 8) {
                try ImageDecoder.decode(path: files[$0])
            }
            for image in alone { XCTAssertEqual(try loader.next()?.get(), image) }
        }
    }
}
