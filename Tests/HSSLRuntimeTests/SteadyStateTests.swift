import AllocationCounter
import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLRuntime

/// Extracting asks neither the heap nor the kernel for memory once it has started.
final class SteadyStateTests: XCTestCase {
    override func setUpWithError() throws {
        try XCTSkipIf(allocation_count() < 0, "allocations cannot be counted here")
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    }

    /// A counter that counts nothing would make the test below pass.
    func testTheCounterCounts() {
        let heap = allocation_count()
        free(malloc(100))
        XCTAssertEqual(allocation_count() - heap, 1)
        let array = allocation_count()
        XCTAssertEqual([Float](repeating: 1, count: Int.random(in: 1000...2000)).max(), 1)
        XCTAssertGreaterThanOrEqual(allocation_count() - array, 1)
        let pages = allocation_count()
        munmap(mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096)
        XCTAssertEqual(allocation_count() - pages, 1)
    }

    func testExtractingAllocatesNothing() throws {
        // Large enough that threads split an image's steps.
        try checkThatNothingIsAllocated(RandomModel(imageSize: 96, patchSize: 8, embedDim: 192, depth: 2, numHeads: 3))
        for (_, configuration) in FamilyTests.configurations {
            try checkThatNothingIsAllocated(RandomModel(configuration))
        }
    }

    private func checkThatNothingIsAllocated(_ model: RandomModel) throws {
        let images = model.images(5)
        for precision in Precision.allCases {
            for threads in [1, 2] {
                let session = try model.session(precision: precision, threads: threads)
                hssl_set_threads(Int32(threads))
                defer { hssl_set_threads(1) }
                for features in Features.allCases {
                    var output = [Float](repeating: 0, count: 5 * session.model.rowCount(features))
                    // The first run starts the threads of the kernels.
                    for count in [5, 2, 1] {
                        try session.extract(
                            images: images, count: count, features: features, normalize: true, into: &output)
                    }
                    let (before, heap) = (allocation_count(), heap_bytes())
                    var count = 5  // unoptimised, a loop over a range allocates
                    while count > 0 {
                        try session.extract(
                            images: images, count: count, features: features, normalize: true, into: &output)
                        count -= 1
                    }
                    let (calls, growth) = (allocation_count() - before, heap_bytes() - heap)
                    XCTAssertEqual(calls, 0, "\(precision), \(threads) threads, \(features)")
                    XCTAssertLessThanOrEqual(growth, 0, "bytes: \(precision), \(threads) threads, \(features)")
                }
            }
        }
    }
}
