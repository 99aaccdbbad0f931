import CSupport
import HSSLPretraining
import HSSLModels
import HSSLGraph
@main struct HSSL { static func main() throws {
  _ = hssl_initialize(nil, 0)
  let a = CommandLine.arguments
  let arch = try ModelArchitecture(named: a[1], imageSize: Int(a[2])!, patchSize: Int(a[3])!)
  let r = try PretrainBenchmark(architecture: arch, precision: Precision(rawValue: a[4])!, batchSize: Int(a[5])!, prototypes: Int(a[6])!, steps: Int(a[7])!).run(microBatch: a.count > 8 ? Int(a[8]) : nil)
  print(r.imagesPerSecond, r.peakRSSBytes >> 20, r.microBatch, r.shares, r.stepSeconds)
} }
