import HSSLData
@testable import HSSLPretraining
import XCTest

final class LoadingWatchTests: XCTestCase {
    /// What the watch says over equal updates.
    private func warnings(updates: Int, seconds: Double, share: Double, side: Double) -> [String] {
        var watch = LoadingWatch(neededSide: 317, threads: 2)
        return (0..<updates).compactMap { _ in
            watch.warning(seconds: seconds, share: share, side: side)
        }
    }

    func testLoadingIsSaidOnceWithItsCause() {
        XCTAssertEqual(
            warnings(updates: 100, seconds: 5, share: 0.62, side: 3000),
            ["loading images takes 62 % of the processors' time: their shorter sides have 3000 pixels on average, "
                + "and views need 317 at most; learn from copies that were shrunk once"])
        XCTAssertEqual(
            warnings(updates: 100, seconds: 5, share: 0.62, side: 500),
            ["loading images takes 62 % of the processors' time"], "shrinking would not help")
        XCTAssertEqual(warnings(updates: 100, seconds: 5, share: 0.1, side: 3000), [])
        XCTAssertEqual(warnings(updates: 6, seconds: 60, share: 0.9, side: 3000), [], "too few updates")
        XCTAssertEqual(warnings(updates: 100, seconds: 0.1, share: 0.9, side: 3000), [], "too little time")
    }

    func testTheFirstUpdatesDoNotCount() {
        var watch = LoadingWatch(neededSide: 28, threads: 2)
        for _ in 0..<LoadingWatch.first { XCTAssertNil(watch.warning(seconds: 100, share: 1, side: 28)) }
        for _ in 0..<100 { XCTAssertNil(watch.warning(seconds: 1, share: 0, side: 28)) }
    }

    func testShareIsOfTheRunsOwnProcessors() {
        let one = LoadingWatch(neededSide: 28, threads: 1)
        XCTAssertEqual(one.share(of: 0.25, in: 1), 0.25, accuracy: 1e-12)
        XCTAssertEqual(one.share(of: 3, in: 1), 1)
        // More threads than processors are worth as many as there are.
        XCTAssertGreaterThan(LoadingWatch(neededSide: 28, threads: 1 << 20).share(of: 0.5, in: 1), 0.5 / 512)
    }

    func testSideThatViewsNeed() {
        var data = Recipe.Data()
        data.globalCropsScale = [0.25, 1]
        XCTAssertEqual(MultiCropAugmentation(data, imageSize: 224).neededSide, 448)
        data.localCropsScale = [0.01, 0.4]
        XCTAssertEqual(MultiCropAugmentation(data, imageSize: 224).neededSide, 448, "without local views")
        (data.localCrops, data.localCropsSize) = (2, 96)
        XCTAssertEqual(MultiCropAugmentation(data, imageSize: 224).neededSide, 960)
    }

    func testMetricsKeepTheShare() throws {
        var metrics = Metrics(step: 3, epoch: 0)
        metrics.loadingShare = 0.25
        XCTAssertEqual(try XCTUnwrap(Metrics(json: metrics.json)), metrics)
        XCTAssertTrue(metrics.json.contains("\"loading_share\":0.25"), metrics.json)
    }
}
