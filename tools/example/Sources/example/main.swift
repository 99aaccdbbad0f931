// example MODEL PHOTOGRAPH: prints the photograph's features as a JSON array.
import HSSLData
import HSSLRuntime

let model = try Model(path: CommandLine.arguments[1])
guard let preprocessing = model.preprocessing else { fatalError("the model does not say how images are prepared") }
let photograph = try ImageDecoder.decode(path: CommandLine.arguments[2])
let session = try Session(model: model, threads: 2)
let image = preprocessing.apply(to: photograph)  // [3, H, W]
let features = try session.extract(images: image, count: 1, features: .cls, normalize: true)  // [D]
print(features)
